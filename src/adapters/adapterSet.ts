import { randomStream } from '../random.ts';
import type { TargetModule } from './module.ts';
import type { AdapterView, Initializer, ParameterSpec } from './strategy.ts';

/** One parameter of one module within the arena. */
export interface Slot {
  readonly module: TargetModule;
  readonly spec: ParameterSpec;
  /** First scalar in the arena. */
  readonly offset: number;
  readonly rows: number;
  /** First entry in `steps`. */
  readonly firstRow: number;
}

/** The four arrays of the arena, index for index: value, gradient, Adam's first and second moment. */
const arrays = ['values', 'gradients', 'firstMoments', 'secondMoments'] as const;

/**
 * All parameters of the adapters in flat arrays, rank-major: a rank is one row of each of its module's rank
 * parameters, so the optimizer is one loop, a checkpoint one write, and a resize one copy. Adam's step count
 * is kept per row: a grown row starts its bias correction anew.
 */
export class AdapterSet implements AdapterView {
  values = new Float32Array(0);
  gradients = new Float32Array(0);
  firstMoments = new Float32Array(0);
  secondMoments = new Float32Array(0);
  /** Optimizer steps made, by row. */
  steps = new Int32Array(0);
  slots: readonly Slot[] = [];
  private bySlot = new Map<TargetModule, Map<string, Slot>>();
  private readonly specs: ReadonlyMap<TargetModule, readonly ParameterSpec[]>;
  private readonly ranks = new Map<TargetModule, number>();
  private readonly serialsOf = new Map<TargetModule, number[]>();
  private readonly liveOf = new Map<TargetModule, boolean[]>();
  private readonly nextSerial = new Map<TargetModule, number>();

  constructor(
    readonly modules: readonly TargetModule[],
    specs: ReadonlyMap<TargetModule, readonly ParameterSpec[]>,
    ranks: readonly number[],
    private readonly seed: number,
    /** Modules that train in full (modulesToSave): stored here, but no part of the budget. */
    readonly heads: readonly TargetModule[] = [],
  ) {
    this.specs = specs;
    const start = new Map(modules.map((module, i) => [module, ranks[i]!]));
    for (const module of [...modules, ...heads]) {
      const rank = start.get(module) ?? 0;
      this.ranks.set(module, rank);
      this.serialsOf.set(
        module,
        Array.from({ length: rank }, (_, i) => i),
      );
      this.liveOf.set(module, new Array<boolean>(rank).fill(true));
      this.nextSerial.set(module, rank);
    }
    // All at once: laid out module by module, every one would copy the arrays of those before it.
    this.layOut(new Map());
    for (const slot of this.slots) this.initialize(slot, 0, slot.spec.init);
  }

  rank(module: TargetModule): number {
    return this.ranks.get(module)!;
  }

  serials(module: TargetModule): readonly number[] {
    return this.serialsOf.get(module)!;
  }

  slot(module: TargetModule, role: string): Slot {
    const slot = this.bySlot.get(module)?.get(role);
    if (!slot) throw new RangeError(`module ${module.name} has no parameter ${role}`);
    return slot;
  }

  has(module: TargetModule, role: string): boolean {
    return this.bySlot.get(module)?.has(role) ?? false;
  }

  parameter(module: TargetModule, role: string): Float32Array {
    return this.view('values', this.slot(module, role));
  }

  gradient(module: TargetModule, role: string): Float32Array {
    return this.view('gradients', this.slot(module, role));
  }

  view(array: (typeof arrays)[number], slot: Slot): Float32Array {
    return this[array].subarray(slot.offset, slot.offset + slot.rows * slot.spec.width);
  }

  live(module: TargetModule): readonly boolean[] {
    return this.liveOf.get(module)!;
  }

  setLive(module: TargetModule, live: readonly boolean[]): void {
    if (live.length !== this.rank(module))
      throw new RangeError(`module ${module.name} has ${this.rank(module)} ranks, not ${live.length}`);
    this.liveOf.set(module, [...live]);
  }

  liveRank(module: TargetModule): number {
    return this.live(module).filter(Boolean).length;
  }

  costOfRank(module: TargetModule): number {
    return this.specs
      .get(module)!
      .reduce((sum, spec) => sum + (spec.rows === 'rank' && spec.trained ? spec.width : 0), 0);
  }

  /** Adapter scalars that count against the budget: live ranks, and fixed rows that a strategy trains. */
  liveParameters(): number {
    let sum = 0;
    for (const module of this.modules) {
      sum += this.liveRank(module) * this.costOfRank(module);
      for (const spec of this.specs.get(module)!)
        if (spec.rows !== 'rank' && spec.trained) sum += spec.rows * spec.width;
    }
    return sum;
  }

  /** Removes ranks by row index: rows, moments and step counts go together. */
  prune(module: TargetModule, ranks: readonly number[]): void {
    const gone = new Set(ranks);
    const kept = Array.from({ length: this.rank(module) }, (_, i) => i).filter((i) => !gone.has(i));
    this.setRank(module, kept, kept.length);
    const pick = <T>(items: readonly T[]) => kept.map((i) => items[i]!);
    this.serialsOf.set(module, pick(this.serialsOf.get(module)!));
    this.liveOf.set(module, pick(this.liveOf.get(module)!));
  }

  /** Appends ranks with fresh values, zero moments and step counts of zero. */
  grow(module: TargetModule, count: number): void {
    this.append(module, count, (spec) => spec.growth ?? spec.init);
  }

  private append(module: TargetModule, count: number, init: (spec: ParameterSpec) => Initializer): void {
    const before = this.rank(module);
    this.setRank(
      module,
      Array.from({ length: before }, (_, i) => i),
      before + count,
    );
    const first = this.nextSerial.get(module)!;
    for (let i = 0; i < count; i++) {
      this.serialsOf.get(module)!.push(first + i);
      this.liveOf.get(module)!.push(true);
    }
    this.nextSerial.set(module, first + count);
    for (const slot of this.bySlot.get(module)!.values())
      if (slot.spec.rows === 'rank') this.initialize(slot, before, init(slot.spec));
  }

  /** Draws the rows from `from` on; each from the stream of (seed, module, role, serial). */
  private initialize(slot: Slot, from: number, init: Initializer): void {
    const values = this.view('values', slot);
    const { width } = slot.spec;
    const serials = slot.spec.rows === 'rank' ? this.serialsOf.get(slot.module)! : undefined;
    for (let row = from; row < slot.rows; row++) {
      const target = values.subarray(row * width, (row + 1) * width);
      if (init.kind === 'zeros') target.fill(0);
      else if (init.kind === 'ones') target.fill(1);
      else {
        const random = randomStream(
          this.seed,
          'init',
          slot.module.name,
          slot.spec.role,
          serials?.[row] ?? row,
        );
        if (init.kind === 'uniform')
          for (let i = 0; i < width; i++) target[i] = (2 * random.uniform() - 1) * init.bound;
        else for (let i = 0; i < width; i++) target[i] = random.normal() * init.std;
      }
    }
  }

  private setRank(module: TargetModule, kept: readonly number[], rank: number): void {
    this.ranks.set(module, rank);
    this.layOut(new Map([[module, kept]]));
  }

  /** Lays the arena out for the current ranks and copies what is kept; `kept` names surviving rows. */
  private layOut(kept: ReadonlyMap<TargetModule, readonly number[]>): void {
    const old = {
      slots: this.bySlot,
      steps: this.steps,
      arrays: Object.fromEntries(arrays.map((name) => [name, this[name]])) as Record<
        (typeof arrays)[number],
        Float32Array
      >,
    };
    const slots: Slot[] = [];
    let offset = 0;
    let firstRow = 0;
    for (const module of [...this.modules, ...this.heads])
      for (const spec of this.specs.get(module)!) {
        const rows = spec.rows === 'rank' ? this.ranks.get(module)! : spec.rows;
        slots.push({ module, spec, offset, rows, firstRow });
        offset += rows * spec.width;
        firstRow += rows;
      }
    for (const name of arrays) this[name] = new Float32Array(offset);
    this.steps = new Int32Array(firstRow);
    this.slots = slots;
    this.bySlot = new Map();
    for (const slot of slots) {
      const roles = this.bySlot.get(slot.module) ?? new Map<string, Slot>();
      this.bySlot.set(slot.module, roles.set(slot.spec.role, slot));
      const before = old.slots.get(slot.module)?.get(slot.spec.role);
      if (!before) continue;
      const rows =
        (slot.spec.rows === 'rank' ? kept.get(slot.module) : undefined) ??
        Array.from({ length: before.rows }, (_, i) => i);
      const { width } = slot.spec;
      rows.forEach((from, to) => {
        const start = before.offset + from * width;
        for (const name of arrays)
          this[name].set(old.arrays[name].subarray(start, start + width), slot.offset + to * width);
        this.steps[slot.firstRow + to] = old.steps[before.firstRow + from]!;
      });
    }
  }

  /** Everything but the arrays, for a checkpoint. */
  saveLayout(): AdapterLayout {
    return {
      modules: Object.fromEntries(
        this.modules.map((module) => [
          module.name,
          {
            serials: [...this.serials(module)],
            live: [...this.live(module)],
            nextSerial: this.nextSerial.get(module)!,
          },
        ]),
      ),
    };
  }

  /** Takes on the ranks of a checkpoint; the arrays are then filled by the caller. */
  restoreLayout(layout: AdapterLayout): void {
    for (const module of this.modules) {
      const saved = layout.modules[module.name];
      if (!saved) throw new RangeError(`the saved state has no module ${module.name}`);
      this.ranks.set(module, saved.serials.length);
      this.serialsOf.set(module, [...saved.serials]);
      this.liveOf.set(module, [...saved.live]);
      this.nextSerial.set(module, saved.nextSerial);
    }
    this.bySlot = new Map();
    this.layOut(new Map());
  }
}

/** What a checkpoint holds of an adapter set beside its numbers. */
export interface AdapterLayout {
  readonly modules: Readonly<
    Record<
      string,
      { readonly serials: readonly number[]; readonly live: readonly boolean[]; readonly nextSerial: number }
    >
  >;
}
