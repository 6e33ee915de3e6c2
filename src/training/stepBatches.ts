import type { AdapterScheduler } from '../adapters/strategy.ts';
import type { RunConfig } from '../config/schema.ts';
import { AloraError } from '../errors.ts';
import { randomStream } from '../random.ts';
import { epochBatches, stepsPerEpoch } from '../tasks/batches.ts';
import { type Batch, collate } from '../tasks/collate.ts';
import { lengthParts, runCostOf } from '../tasks/parts.ts';
import type { RunData } from './data.ts';

/** The training rows in two parts: what trains weights, and what a strategy holds back. */
interface Parts {
  readonly share: number;
  readonly training: readonly number[];
  readonly held: readonly number[];
}

/** Which rows each step sees. A function of seed and step number alone, so a resumed run finds its place. */
export class StepBatches {
  private readonly lengths: readonly number[];
  private readonly runCost: number;
  private epoch: { readonly key: string; readonly steps: number[][][] } | undefined;
  private divided: Parts | undefined;

  constructor(
    private readonly config: Pick<RunConfig, 'train' | 'data'>,
    private readonly data: Pick<RunData, 'train' | 'padId'>,
    private readonly scheduler: AdapterScheduler | undefined,
    /** See AdaptedRuntime. */
    tokensOfRun: number,
  ) {
    this.lengths = data.train.map(({ ids }) => ids.length);
    this.runCost = runCostOf(data.train, tokensOfRun);
  }

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
    const parts = lengthParts(
      rows.map((i) => this.lengths[i]!),
      { most: this.config.train.batchSize, tokensOfRun: this.runCost },
    );
    return parts.map((places) => {
      const indices = places.map((place) => rows[place]!);
      return collate(
        indices.map((i) => train[i]!),
        { padId, indices },
      );
    });
  }

  /** Step number `at` (from 0) over the given rows, epoch after epoch; as places in `rows`, where given. */
  private indices(at: number, rows: readonly number[] | undefined): number[][] {
    const { train, data } = this.config;
    const perEpoch = stepsPerEpoch(rows?.length ?? this.lengths.length, train);
    const epoch = Math.floor(at / perEpoch);
    const key = `${rows?.length} ${epoch}`;
    if (this.epoch?.key !== key) {
      const lengths = rows?.map((i) => this.lengths[i]!) ?? this.lengths;
      this.epoch = { key, steps: epochBatches(lengths, { ...train, shuffle: data.shuffle, epoch }) };
    }
    return this.epoch.steps[at % perEpoch]!;
  }

  /** Divided by a seeded shuffle, one row in each part at least. Errors: DATA_ONE_ROW (data). */
  private parts(share: number): Parts {
    if (this.divided?.share === share) return this.divided;
    const rows = this.data.train.map((_, i) => i);
    if (rows.length < 2)
      throw new AloraError(
        'data',
        'DATA_ONE_ROW',
        'The scorer holds training rows back, and there is one row',
        {
          where: 'data.train',
          allowed: 'two rows at least',
          fix: 'Add rows, or use another adapter.scorer.',
        },
      );
    const order = randomStream(this.config.train.seed, 'held back').shuffle(rows);
    const cut = Math.max(1, Math.min(order.length - 1, Math.round(order.length * share)));
    this.divided = {
      share,
      held: order.slice(0, cut),
      training: order.slice(cut).sort((a, b) => a - b),
    };
    return this.divided;
  }
}
