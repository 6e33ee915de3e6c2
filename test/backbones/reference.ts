import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { readSafetensors } from '../../src/adapters/safetensors.ts';
import type { Tensor } from '../../src/onnx/tensor.ts';

/** Numbers in lists, however deep. */
export interface Nested extends ReadonlyArray<number | Nested> {}

export interface Batch {
  readonly inputs: Readonly<Record<string, Nested>>;
  /** The token or class to predict at each place; negative: nothing is trained there. */
  readonly labels: Nested;
}

export type Kind = 'causal' | 'sequence' | 'encoder' | 'tokens' | 'span' | 'seq2seq' | 'speech' | 'image';

/** A run of PyTorch + PEFT. */
export interface Reference {
  readonly kind: Kind;
  readonly model: string;
  readonly adapter: string;
  readonly batches: readonly Batch[];
  readonly losses: readonly number[];
  readonly rates: readonly number[];
  readonly clip: number;
  readonly weightDecay: number;
  /** Of step 1 before clipping, under PEFT's names. */
  readonly gradients: ReadonlyMap<string, Tensor>;
}

const fixtures = resolve('fixtures');
const read = (...path: string[]) => JSON.parse(readFileSync(join(fixtures, ...path), 'utf8'));

/** A run of fixtures/backbones/trace.py. */
export function readBackbone(name: string, variant: string, adapter = 'adapter'): Reference {
  const trace = read('backbones', name, `${variant}.json`);
  return {
    kind: trace.kind,
    model: join(fixtures, 'backbones', name),
    adapter: join(fixtures, 'backbones', name, adapter),
    batches: trace.batches,
    losses: trace.losses,
    rates: trace.losses.map(() => trace.learningRate),
    clip: 0,
    weightDecay: 0,
    gradients: readSafetensors(join(fixtures, 'backbones', name, `${variant}.safetensors`)).tensors,
  };
}

/** The first steps of a run of fixtures/traces/make_traces.py; `model` where another folder holds the same weights. */
export function readTrace(name: string, model?: string, steps = 5): Reference {
  const trace = read('traces', name, 'trace.json');
  const { run, rows, padId } = trace as {
    run: { batchSize: number; clip: number; weightDecay: number; task: string };
    rows: { ids: number[]; label?: number }[];
    padId: number;
  };
  const starts = Array.from({ length: Math.ceil(rows.length / run.batchSize) }, (_, i) => i * run.batchSize);
  const batches = Array.from({ length: steps }, (_, step) => {
    const start = starts[step % starts.length]!;
    return padded(rows.slice(start, start + run.batchSize), padId);
  });
  return {
    kind: run.task === 'text' ? 'causal' : 'sequence',
    model: join(fixtures, 'models', model ?? trace.model),
    adapter: join(fixtures, 'traces', name, 'initial'),
    batches,
    losses: trace.losses.slice(0, steps),
    rates: trace.learningRates.slice(0, steps),
    clip: run.clip,
    weightDecay: run.weightDecay,
    gradients: readSafetensors(join(fixtures, 'traces', name, 'gradients.safetensors')).tensors,
  };
}

function padded(rows: readonly { ids: number[]; label?: number }[], padId: number): Batch {
  const length = Math.max(...rows.map(({ ids }) => ids.length));
  const fill = (values: readonly number[], filler: number) => [
    ...values,
    ...Array<number>(length - values.length).fill(filler),
  ];
  const labels =
    rows[0]?.label === undefined
      ? rows.map(({ ids }) => fill(ids.slice(1), -100))
      : rows.map(({ label }) => label!);
  return {
    inputs: {
      input_ids: rows.map(({ ids }) => fill(ids, padId)),
      attention_mask: rows.map(({ ids }) =>
        fill(
          ids.map(() => 1),
          0,
        ),
      ),
    },
    labels,
  };
}
