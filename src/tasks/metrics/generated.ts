import type { Example, MetricName } from '../task.ts';
import { bleu } from './bleu.ts';
import { meteor } from './meteor.ts';
import { rougeL } from './rouge.ts';
import { exactMatch, f1 } from './squad.ts';
import { wordErrorRate } from './wordErrorRate.ts';

/** A prompt, and every answer that the data gives to it. */
export interface PromptGroup {
  readonly prompt: string;
  readonly references: readonly string[];
}

/**
 * The prompts to generate from, each once: rows of one prompt (E2E has several texts per meaning representation) become
 * the references of one generated text.
 */
export function groupByPrompt(examples: readonly Example[]): PromptGroup[] {
  const groups = new Map<string, Set<string>>();
  for (const { prompt, completion, references } of examples) {
    if (prompt === undefined) continue;
    const answers = groups.get(prompt) ?? new Set();
    for (const answer of references ?? (completion === undefined ? [] : [completion])) answers.add(answer);
    groups.set(prompt, answers);
  }
  return [...groups].map(([prompt, references]) => ({ prompt, references: [...references] }));
}

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
const answerForm = (text: string) => text.trim().toLowerCase();

type TextMetric = (predictions: readonly string[], references: readonly (readonly string[])[]) => number;

const best =
  (score: (prediction: string, reference: string) => number): TextMetric =>
  (predictions, references) =>
    mean(
      predictions.map((p, i) =>
        Math.max(0, ...(references[i] ?? []).map((reference) => score(p, reference))),
      ),
    );

/** All but `wordErrorRate` between 0 and 1. `accuracy`: equal to a reference, blanks around it and case aside. */
const textMetrics: Readonly<Partial<Record<MetricName, TextMetric>>> = {
  accuracy: best((prediction, reference) => Number(answerForm(prediction) === answerForm(reference))),
  em: best(exactMatch),
  f1: best(f1),
  bleu: (predictions, references) => bleu(predictions, references) / 100,
  rougeL: (predictions, references) => mean(predictions.map((p, i) => rougeL(p, references[i] ?? []))),
  meteor: (predictions, references) => mean(predictions.map((p, i) => meteor(p, references[i] ?? []))),
  wordErrorRate: (predictions, references) =>
    wordErrorRate(
      predictions,
      references.map(([reference = '']) => reference),
    ),
};

/** Scores generated texts against their references; `predictions[i]` answers `groups[i]`. */
export function scoreGenerated(
  names: readonly MetricName[],
  predictions: readonly string[],
  groups: readonly PromptGroup[],
): Partial<Record<MetricName, number>> {
  const references = groups.map((group) => group.references);
  const known = names.flatMap((name) => {
    const metric = textMetrics[name];
    return metric && predictions.length > 0 ? [[name, metric(predictions, references)] as const] : [];
  });
  return Object.fromEntries(known);
}
