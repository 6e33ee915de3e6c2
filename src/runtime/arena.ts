/** A stretch of a region, used or free. */
interface Chunk {
  readonly region: Region;
  readonly start: number;
  size: number;
  free: boolean;
  previous: Chunk | undefined;
  next: Chunk | undefined;
}

interface Region {
  /** End of the furthest chunk that was ever used: the pages up to there are resident. */
  touched: number;
}

const granularity = 256;
const firstRegion = 2 ** 20;
const largestRegion = 2 ** 30;
/** A free chunk that is larger by this much is split even if it is not twice the size that is asked for. */
const tolerated = 128 * 2 ** 20;

/**
 * The allocator of ONNX Runtime's CPU provider (core/framework/bfc_arena.cc: best fit with coalescing, regions that
 * double), by its bookkeeping alone: what a sequence of allocations leaves resident. Memory is never given back.
 */
export class Arena {
  private readonly regions: Region[] = [];
  private readonly free = new Set<Chunk>();
  private nextRegion = firstRegion;

  allocate(bytes: number): Chunk {
    const size = Math.max(granularity, Math.ceil(bytes / granularity) * granularity);
    const chunk = this.bestFit(size) ?? this.extend(size);
    this.free.delete(chunk);
    chunk.free = false;
    if (chunk.size >= 2 * size || chunk.size - size >= tolerated) this.split(chunk, size);
    const { region } = chunk;
    region.touched = Math.max(region.touched, chunk.start + size);
    return chunk;
  }

  release(chunk: Chunk): void {
    chunk.free = true;
    this.free.add(chunk);
    if (chunk.next?.free) this.join(chunk, chunk.next);
    if (chunk.previous?.free) this.join(chunk.previous, chunk);
  }

  /** Bytes that were ever used. */
  get resident(): number {
    return this.regions.reduce((sum, { touched }) => sum + touched, 0);
  }

  /** The smallest chunk that is large enough, the earliest of equal ones. */
  private bestFit(size: number): Chunk | undefined {
    let best: Chunk | undefined;
    for (const chunk of this.free) if (chunk.size >= size && (!best || chunk.size < best.size)) best = chunk;
    return best;
  }

  private extend(size: number): Chunk {
    let grown = false;
    while (size > this.nextRegion) {
      this.nextRegion *= 2;
      grown = true;
    }
    const region: Region = { touched: 0 };
    this.regions.push(region);
    const chunk: Chunk = {
      region,
      start: 0,
      size: this.nextRegion,
      free: true,
      previous: undefined,
      next: undefined,
    };
    if (!grown) this.nextRegion = Math.min(2 * this.nextRegion, largestRegion);
    return chunk;
  }

  private split(chunk: Chunk, size: number): void {
    const rest: Chunk = {
      region: chunk.region,
      start: chunk.start + size,
      size: chunk.size - size,
      free: true,
      previous: chunk,
      next: chunk.next,
    };
    if (chunk.next) chunk.next.previous = rest;
    chunk.next = rest;
    chunk.size = size;
    this.free.add(rest);
  }

  private join(left: Chunk, right: Chunk): void {
    this.free.delete(right);
    left.size += right.size;
    left.next = right.next;
    if (right.next) right.next.previous = left;
  }
}
