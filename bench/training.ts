import { InferenceSession } from 'onnxruntime-node';
import { resolveRunConfig } from '../src/config/resolve.ts';
import type { RunConfig } from '../src/config/schema.ts';
import type { TokenBatch } from '../src/runtime/feeds.ts';
import { lora } from '../src/strategies.ts';
import type { StepCase } from './cases.ts';

export const strategies = { lora };

/** A case as a run file; its data is `batchOf`. */
export function configOf(step: StepCase): RunConfig {
  return resolveRunConfig(
    {
      model: { path: step.folder, targets: [...step.targets], compute: step.compute },
      data: { task: step.labelling === 'classification' ? 'classification' : 'text', train: 'none.jsonl' },
      adapter: { strategy: 'lora', alpha: 2 * step.rank, modulesToSave: [...step.modulesToSave] },
      budget: { rank: step.rank },
      train: { steps: step.steps, recompute: step.recompute ?? false },
      runtime: { threads: step.threads },
    },
    { strategies },
  );
}

/** Random tokens; the same positions are labelled in every row. */
export function batchOf(step: StepCase, seed: number): TokenBatch {
  const { batch: size, length, answer, labelling, vocabulary } = step;
  let x = 1234567 + seed;
  const random = (below: number) => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return BigInt(Math.floor((x / 2 ** 32) * below));
  };
  const fill = (value: (i: number) => bigint) =>
    BigInt64Array.from({ length: size * length }, (_, i) => value(i));
  // As a shifted loss has it: the last position predicts nothing.
  const first = labelling === 'all' ? 0 : length - 1 - answer;
  const places =
    labelling === 'classification'
      ? Array.from({ length: size }, (_, b) => b)
      : Array.from({ length: size * length }, (_, i) => i).filter(
          (i) => i % length >= first && i % length < length - 1,
        );
  const classes = labelling === 'classification' ? 2 : vocabulary;
  return {
    size,
    length,
    inputIds: fill(() => random(vocabulary)),
    attentionMask: fill(() => 1n),
    positionIds: fill((i) => BigInt(i % length)),
    rows: BigInt64Array.from(places, BigInt),
    targets: BigInt64Array.from(places, () => random(classes)),
  };
}

/** A stretch of time in milliseconds of `performance.now`. */
export interface Stretch {
  readonly begun: number;
  readonly ended: number;
}

export interface SessionWatch {
  onCreate?(creation: Stretch): void;
  onRun?(run: Stretch, feeds: InferenceSession.FeedsType): void;
}

/** Tells of every session that is opened from now on, and of its runs: how long ONNX Runtime itself works. */
export function watchSessions({ onCreate, onRun }: SessionWatch): void {
  const { create } = InferenceSession;
  InferenceSession.create = async (...inputs: unknown[]) => {
    const begun = performance.now();
    const session = (await Reflect.apply(create, InferenceSession, inputs)) as InferenceSession;
    onCreate?.({ begun, ended: performance.now() });
    const run = session.run.bind(session) as (...inputs: unknown[]) => Promise<InferenceSession.ReturnType>;
    session.run = async (...given: unknown[]) => {
      const begun = performance.now();
      const outputs = await run(...given);
      onRun?.({ begun, ended: performance.now() }, given[0] as InferenceSession.FeedsType);
      return outputs;
    };
    return session;
  };
}
