import type { AdapterScheduler } from '../adapters/strategy.ts';
import type { RunConfig } from '../config/schema.ts';
import { randomStream } from '../random.ts';
import { epochBatches, stepsPerEpoch } from '../tasks/batches.ts';
import { type Batch, collate } from '../tasks/collate.ts';
import { lengthParts, runCostOf } from '../tasks/parts.ts';
import type { RunData } from './data.ts';

/** Which rows each step sees. A function of seed and step number alone, so a resumed run finds its place. */
export class StepBatches {
  private cache: { readonly key: string; readonly steps: number[][][] } | undefined;

  constructor(
    private readonly config: Pick<RunConfig, 'train' | 'data'>,
    private readonly data: Pick<RunData, 'train' | 'padId'>,
    private readonly scheduler: AdapterScheduler | undefined,
    /** See AdaptedRuntime. */
    private readonly tokensOfRun: number,
  ) {}

  /**
   * The rows of a step (from 1) in parts to run one after the other, dealt out by length so that little is padded;
   * none has more than train.batchSize rows. While a strategy holds rows back, of the other rows only.
   */
  of(step: number): Batch[] {
    const share = this.scheduler?.heldBackShare?.() ?? 0;
    const rows = share > 0 ? this.parts(share).training : undefined;
    return this.parted(this.indices(step - 1, rows).flatMap((batch) => batch.map((i) => rows?.[i] ?? i)));
  }

  /** Batch number `at` (from 0) of the rows that are held back, over and over; in parts, as a step. */
  heldBack(at: number): Batch[] {
    const { held } = this.parts(this.scheduler?.heldBackShare?.() ?? 0.5);
    const { batchSize } = this.config.train;
    const size = Math.min(batchSize, held.length);
    return this.parted(Array.from({ length: size }, (_, i) => held[(at * batchSize + i) % held.length]!));
  }

  private parted(rows: readonly number[]): Batch[] {
    const { train, padId } = this.data;
    const lengths = rows.map((i) => train[i]!.ids.length);
    const parts = lengthParts(lengths, {
      most: this.config.train.batchSize,
      tokensOfRun: runCostOf(train, this.tokensOfRun),
    });
    return parts.map((places) => {
      const indices = places.map((place) => rows[place]!);
      return collate(
        indices.map((i) => train[i]!),
        { padId, indices },
      );
    });
  }

  /** Step number `at` (from 0) over the given rows, epoch after epoch. */
  private indices(at: number, rows: readonly number[] | undefined): number[][] {
    const { train, data } = this.config;
    const lengths = (rows ?? this.data.train.map((_, i) => i)).map((i) => this.data.train[i]!.ids.length);
    const perEpoch = stepsPerEpoch(lengths.length, train);
    const epoch = Math.floor(at / perEpoch);
    const key = `${rows ? 'part' : 'all'} ${epoch}`;
    if (this.cache?.key !== key)
      this.cache = { key, steps: epochBatches(lengths, { ...train, shuffle: data.shuffle, epoch }) };
    return this.cache.steps[at % perEpoch]!;
  }

  /** The training rows in two parts by a seeded shuffle: what trains weights, and what is held back. */
  private parts(share: number): { training: number[]; held: number[] } {
    const order = randomStream(this.config.train.seed, 'held back').shuffle(this.data.train.map((_, i) => i));
    const cut = Math.max(1, Math.min(order.length - 1, Math.round(order.length * share)));
    return { held: order.slice(0, cut), training: order.slice(cut).sort((a, b) => a - b) };
  }
}
