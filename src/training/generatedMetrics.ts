import type { RunConfig } from '../config/schema.ts';
import { findModel, type ModelDirectory } from '../runtime/modelDirectory.ts';
import type { RuntimeOptions } from '../runtime/session.ts';
import { generateRows } from '../runtime/textGeneration.ts';
import type { Workspace } from '../runtime/workspace.ts';
import { groupByPrompt, scoreGenerated } from '../tasks/metrics/generated.ts';
import type { Example } from '../tasks/task.ts';
import type { RunData } from './data.ts';
import { endsOf, openDecoder } from './openDecoder.ts';
import type { SplitResult } from './reporter.ts';

export interface GeneratedOptions extends RuntimeOptions {
  /** Adapter folder in PEFT format. */
  readonly adapter?: string;
  /** Most prompts of equal length that run as one batch. */
  readonly batchSize: number;
  /** Called between batches; may throw to stop. */
  readonly breathe?: () => void;
}

/** The file that text is generated from: the one that the run file names, or the best one with a cache. */
export function generationFile(
  { model }: Pick<RunConfig, 'model'>,
  directory: ModelDirectory,
): ModelDirectory {
  const named = model.file !== undefined || model.path.endsWith('.onnx');
  return named ? directory : findModel(directory.folder, { purpose: 'generation' });
}

/**
 * Answers every prompt of a split greedily and scores the answers by the task's metrics on generated text. A prompt is
 * given as it was in training; an answer may be twice as long as the longest one to be learnt.
 */
export async function generatedMetrics(
  examples: readonly Example[],
  { task, tokenizer, contextLength }: Pick<RunData, 'task' | 'tokenizer' | 'contextLength'>,
  directory: ModelDirectory,
  workspace: Workspace,
  { adapter, batchSize, breathe, ...runtime }: GeneratedOptions,
): Promise<SplitResult['metrics']> {
  const asked = examples.filter(({ prompt }) => prompt !== undefined);
  const groups = groupByPrompt(asked);
  const promptOf = new Map(asked.map((example) => [example.prompt, promptIds(example)]));
  const prompts = groups.map(({ prompt }) => promptOf.get(prompt)!);
  const longest = Math.max(0, ...asked.map(({ targets }) => targets.filter((target) => target >= 0).length));
  const { decoder, close } = await openDecoder(directory, adapter, workspace, runtime);
  const answers: string[] = [];
  try {
    for (const batch of equalLengths(prompts, batchSize)) {
      // session.run blocks the event loop while it computes: timers and signals get their turn.
      await new Promise((resolve) => setImmediate(resolve));
      breathe?.();
      const rows = batch.map((i) => prompts[i]!);
      const written = await generateRows(decoder, rows, {
        maxNewTokens: 2 * longest,
        endTokens: endsOf(directory, tokenizer.eosId),
        contextLength,
      });
      written.forEach(({ tokens }, i) => {
        answers[batch[i]!] = tokenizer.decode(tokens, { skipSpecial: true });
      });
    }
  } finally {
    await close();
  }
  return scoreGenerated(task.textMetrics ?? [], answers, groups);
}

/** The tokens before the first that is learnt. */
function promptIds({ ids, targets }: Example): readonly number[] {
  return ids.slice(0, targets.findIndex((target) => target >= 0) + 1);
}

/** Indices of prompts in batches of one length. */
function equalLengths(prompts: readonly (readonly number[])[], batchSize: number): number[][] {
  const byLength = new Map<number, number[]>();
  prompts.forEach(({ length }, i) => {
    byLength.set(length, [...(byLength.get(length) ?? []), i]);
  });
  return [...byLength.values()].flatMap((indices) =>
    Array.from({ length: Math.ceil(indices.length / batchSize) }, (_, i) =>
      indices.slice(i * batchSize, (i + 1) * batchSize),
    ),
  );
}
