import { z } from 'zod';

/** JSON has no NaN or infinity: a number that was not finite is written as null. */
const measured = z.union([z.number(), z.null().transform(() => Number.NaN)]);

const step = z.object({
  event: z.literal('step'),
  step: z.number(),
  epoch: measured.optional(),
  loss: measured,
  learningRate: measured.optional(),
  gradNorm: measured.optional(),
  tokens: z.number().optional(),
  labels: z.number().optional(),
  ms: z.number().optional(),
});

const evaluation = z.object({
  event: z.literal('eval'),
  step: z.number(),
  split: z.string(),
  loss: measured,
  metrics: z.record(z.string(), measured).default({}),
});

const allocation = z.object({
  event: z.literal('allocation'),
  step: z.number(),
  round: z.number().optional(),
  pruned: z
    .array(z.object({ module: z.string(), index: z.number(), score: measured.optional() }))
    .readonly()
    .default([]),
  grown: z.record(z.string(), z.number()).default({}),
  ranks: z.record(z.string(), z.number()),
  scores: z.string().optional(),
  loss: z.object({ before: measured, pruned: measured, grown: measured }).optional(),
  seconds: z.number().optional(),
  notes: z.array(z.string()).readonly().optional(),
});

/** What a line may be; `MetricsEvent` of the trainer must fit. */
export type MetricsLine = z.input<typeof step> | z.input<typeof evaluation> | z.input<typeof allocation>;
export type Step = z.output<typeof step>;
export type Evaluation = z.output<typeof evaluation>;
export type Allocation = z.output<typeof allocation>;

const byEvent: Readonly<Record<string, z.ZodType<Step | Evaluation | Allocation>>> = {
  step,
  eval: evaluation,
  allocation,
};

/** What `metrics.jsonl` says, in file order; `notes` names by number each line that had to be left out. */
export interface Metrics {
  readonly steps: readonly Step[];
  readonly evals: readonly Evaluation[];
  readonly allocations: readonly Allocation[];
  readonly notes: readonly string[];
}

/** The first thing that is wrong with a value, as `path: message`. */
export function firstIssue(error: z.ZodError): string {
  const issue = error.issues[0]!;
  return `${issue.path.join('.') || 'the whole'}: ${issue.message}`;
}

/**
 * Reads `metrics.jsonl`. A torn last line is what a run that is still writing, or that was killed, leaves: it is
 * dropped. Any other line that cannot be read is left out and named. A step that stands there twice counts once, as
 * last written.
 */
export function parseMetrics(text: string): Metrics {
  const steps = new Map<number, Step>();
  const evals = new Map<string, Evaluation>();
  const allocations = new Map<string, Allocation>();
  const notes: string[] = [];
  const unknown = new Map<string, number[]>();
  const lines = text.split('\n');
  lines.forEach((line, index) => {
    if (line.trim() === '') return;
    const at = `metrics.jsonl line ${index + 1}`;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      const torn = index === lines.length - 1;
      notes.push(torn ? `${at} is torn (the last one): left out` : `${at} is not JSON: left out`);
      return;
    }
    const name = String((value as { event?: unknown } | null)?.event);
    const schema = Object.hasOwn(byEvent, name) ? byEvent[name] : undefined;
    if (!schema) {
      unknown.set(name, [...(unknown.get(name) ?? []), index + 1]);
      return;
    }
    const parsed = schema.safeParse(value);
    if (!parsed.success) notes.push(`${at} (${name}): ${firstIssue(parsed.error)}: left out`);
    else if (parsed.data.event === 'step') steps.set(parsed.data.step, parsed.data);
    else if (parsed.data.event === 'eval') evals.set(`${parsed.data.split} ${parsed.data.step}`, parsed.data);
    else allocations.set(`${parsed.data.step} ${parsed.data.round}`, parsed.data);
  });
  for (const [name, at] of unknown) {
    const more = at.length > 1 ? ` and ${at.length - 1} more` : '';
    notes.push(`metrics.jsonl line ${at[0]}${more}: unknown event "${name}": left out`);
  }
  const inOrder = <T extends { step: number }>(items: Iterable<T>) =>
    [...items].sort((a, b) => a.step - b.step);
  return {
    steps: inOrder(steps.values()),
    evals: inOrder(evals.values()),
    allocations: inOrder(allocations.values()),
    notes,
  };
}
