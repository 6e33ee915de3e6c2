import type { RunConfig } from '../config/schema.ts';
import { findModel, type ModelDirectory } from '../runtime/modelDirectory.ts';
import type { RuntimeOptions } from '../runtime/session.ts';
import { generateRows } from '../runtime/textGeneration.ts';
import type { Workspace } from '../runtime/workspace.ts';
import { stackFeatures } from '../tasks/collate.ts';
import { groupByPrompt, type PromptGroup, scoreGenerated } from '../tasks/metrics/generated.ts';
import type { Example } from '../tasks/task.ts';
import type { RunData } from './data.ts';
import { endsOf, openDecoder } from './openDecoder.ts';
import type { AnswersEvent, SplitResult } from './reporter.ts';

export interface GeneratedOptions extends RuntimeOptions {
  /** Adapter folder in PEFT format. */
  readonly adapter?: string;
  /** Most prompts of equal length that run as one batch. */
  readonly batchSize: number;
  /** Called between batches; may throw to stop. */
  readonly breathe?: () => void;
  /** Told before the first batch and after each. */
  readonly onAnswers?: (event: AnswersEvent) => void;
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
 * Answers every prompt (or writes down every recording) of a split greedily and scores the answers by the task's
 * metrics on generated text. A prompt is given as it was in training; an answer may be twice as long as the longest one
 * to be learnt.
 */
export async function generatedMetrics(
  examples: readonly Example[],
  { task, tokenizer, contextLength }: Pick<RunData, 'task' | 'tokenizer' | 'contextLength'>,
  directory: ModelDirectory,
  workspace: Workspace,
  { adapter, batchSize, breathe, onAnswers, ...runtime }: GeneratedOptions,
): Promise<SplitResult['metrics']> {
  const hears = examples.some(({ features }) => features !== undefined);
  const asked = hears ? examples : examples.filter(({ prompt }) => prompt !== undefined);
  const { groups, prompts } = hears ? recordingsOf(examples) : promptsOf(asked);
  const longest = Math.max(0, ...asked.map(({ targets }) => targets.filter((target) => target >= 0).length));
  const hear = (rows: readonly number[]) => stackFeatures(rows.map((row) => examples[row]!));
  const { decoder, close } = await openDecoder(
    directory,
    adapter,
    workspace,
    runtime,
    hears ? hear : undefined,
  );
  const answers: string[] = [];
  let done = 0;
  onAnswers?.({ done, prompts: prompts.length });
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
      done += batch.length;
      onAnswers?.({ done, prompts: prompts.length });
    }
  } finally {
    await close();
  }
  return scoreGenerated(task.textMetrics ?? [], answers, groups);
}

interface Questions {
  readonly groups: readonly PromptGroup[];
  /** What the decoder is asked for each of them. */
  readonly prompts: readonly (readonly number[])[];
}

function promptsOf(asked: readonly Example[]): Questions {
  const groups = groupByPrompt(asked);
  const idsOf = new Map(asked.map((example) => [example.prompt, promptIds(example)]));
  return { groups, prompts: groups.map(({ prompt }) => idsOf.get(prompt)!) };
}

/** Each recording by its number. */
function recordingsOf(examples: readonly Example[]): Questions {
  return {
    groups: examples.map(({ references = [] }, i) => ({ prompt: String(i), references })),
    prompts: examples.map((_, i) => [i]),
  };
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
