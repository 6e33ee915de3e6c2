import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { parse } from 'yaml';
import { z } from 'zod';
import { AloraError } from '../errors.ts';
import type { RunResult } from '../training/reporter.ts';
import { readSavedModules } from './adapter.ts';
import { type Allocation, type Evaluation, firstIssue, parseMetrics, type Step } from './events.ts';
import { type ModuleRow, placesOf } from './modules.ts';
import { type ScoredRound, scoresSchema } from './scores.ts';

/** A run folder, read. */
export interface Run {
  readonly name: string;
  /** run.yaml as written. */
  readonly source: string;
  readonly config: unknown;
  readonly steps: readonly Step[];
  readonly evals: readonly Evaluation[];
  readonly allocations: readonly Allocation[];
  readonly scores: readonly ScoredRound[];
  /** In graph order where the run logged one, else in that of the adapter file. */
  readonly modules: readonly ModuleRow[];
  /** Absent while the run is going on, and after it was interrupted. */
  readonly result?: RunResult;
  /** What had to be left out, for the reader of the report. */
  readonly notes: readonly string[];
}

/** The value at a dotted path of run.yaml. */
export function setting(config: unknown, path: string): unknown {
  let value = config;
  for (const key of path.split('.')) value = (value as Record<string, unknown> | null | undefined)?.[key];
  return value;
}

const count = z.looseObject({ parameters: z.number(), ranks: z.number().optional() });
const score = z.looseObject({
  loss: z.number().nullable(),
  metrics: z.record(z.string(), z.number().nullable()),
});
/** The parts of result.json that the report does arithmetic on; everything else is shown as it stands. */
const resultSchema = z.looseObject({
  budget: z.looseObject({ peak: count, final: count, average: count, target: z.number().optional() }),
  dev: z.looseObject({ before: score, best: score, last: score }).optional(),
  test: z.looseObject({ before: score.optional(), best: score }).optional(),
  steps: z.number(),
  seconds: z.number(),
});

async function text(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw new AloraError('storage', 'REPORT_UNREADABLE', `cannot read ${path}`, {
      where: path,
      got: code,
      fix: 'make the file readable for you',
      cause,
    });
  }
}

async function notARun(dir: string, missing: string): Promise<AloraError> {
  const children = await readdir(dir).catch(() => []);
  const runs: string[] = [];
  for (const child of children.sort())
    if (await stat(join(dir, child, 'run.yaml')).catch(() => undefined)) runs.push(join(dir, child));
  return new AloraError('config', 'REPORT_NOT_A_RUN', `${dir} is not a run folder: ${missing}`, {
    where: dir,
    allowed: 'the output folder of `train`, with run.yaml and metrics.jsonl',
    didYouMean: runs[0],
    fix: 'give the folder that stands under `output:` in the run file',
  });
}

/** Ranks by module before the first event: that event's, with what it pruned put back and what it grew taken away. */
function ranksBefore(event: Allocation): Map<string, number> {
  const ranks = new Map(Object.entries(event.ranks));
  for (const { module } of event.pruned) ranks.set(module, (ranks.get(module) ?? 0) + 1);
  for (const [module, grown] of Object.entries(event.grown))
    ranks.set(module, (ranks.get(module) ?? 0) - grown);
  return ranks;
}

/** Strategies whose gates train and are charged, one scalar a rank. */
const gated = new Set(['adalora', 'sora']);

/**
 * Reads a run folder: run.yaml and metrics.jsonl must be there, everything else is used where it is. Throws a `config`
 * error for a folder that is no run folder; a damaged file of a run is a note, not an error.
 */
export async function readRun(dir: string): Promise<Run> {
  const notes: string[] = [];
  const files = await readdir(dir).catch(() => undefined);
  if (!files) throw await notARun(dir, 'there is no such folder');
  const source = await text(join(dir, 'run.yaml'));
  if (source === undefined) throw await notARun(dir, 'run.yaml is missing');
  const metricsText = await text(join(dir, 'metrics.jsonl'));
  if (metricsText === undefined)
    throw await notARun(dir, 'metrics.jsonl is missing (nothing was measured yet)');
  let config: unknown;
  try {
    config = parse(source);
  } catch (cause) {
    throw new AloraError('config', 'REPORT_RUN_FILE', `run.yaml is not YAML: ${(cause as Error).message}`, {
      where: join(dir, 'run.yaml'),
      fix: 'restore run.yaml as `train` wrote it',
      cause,
    });
  }
  const metrics = parseMetrics(metricsText);
  notes.push(...metrics.notes);
  const lost = metrics.steps.find((step) => !Number.isFinite(step.loss));
  if (lost) notes.push(`the loss of step ${lost.step} is not finite: training diverged there`);

  const result = await readResult(dir, notes);
  const scores = await readScores(dir, metrics.allocations, notes);
  const events = metrics.allocations;
  const before = events[0] && ranksBefore(events[0]);
  const after = events.length > 0 ? new Map(Object.entries(events.at(-1)!.ranks)) : undefined;
  const known = new Set([...Object.keys(result?.ranks ?? {}), ...(after?.keys() ?? [])]);
  const savedIn = (folder: string) => {
    try {
      return readSavedModules(join(dir, folder), known);
    } catch (cause) {
      notes.push(`${folder}/adapter_model.safetensors cannot be read: ${(cause as Error).message}`);
      return undefined;
    }
  };
  const last = savedIn('adapter');
  const best = savedIn('best');
  const places = placesOf(new Set([...known, ...(last?.keys() ?? []), ...(best?.keys() ?? [])]));
  // A module without ranks is in no adapter file: its size is that of its kind in the other layers.
  const sizeOfKind = new Map<string, number>();
  for (const saved of [best, last])
    for (const [name, { size }] of saved ?? [])
      if (size !== undefined) sizeOfKind.set(places.get(name)!.kind, size);
  const gate = gated.has(String(setting(config, 'adapter.strategy'))) ? 1 : 0;
  const modules = [...places].map(([name, place]): ModuleRow => {
    const size = (last?.get(name) ?? best?.get(name))?.size ?? sizeOfKind.get(place.kind);
    const final =
      result?.ranks?.[name] ?? after?.get(name) ?? last?.get(name)?.rank ?? best?.get(name)?.rank ?? 0;
    return {
      name,
      ...place,
      cost: size === undefined ? undefined : size + gate,
      before: before?.get(name) ?? final,
      after: final,
      saved: last ? (last.get(name)?.rank ?? 0) : undefined,
      best: best ? (best.get(name)?.rank ?? 0) : undefined,
    };
  });
  const name = basename(resolve(dir));
  return { name, source, config, ...metrics, scores, modules, result, notes };
}

async function readResult(dir: string, notes: string[]): Promise<RunResult | undefined> {
  const json = await text(join(dir, 'result.json'));
  if (json === undefined) return undefined;
  try {
    const parsed = resultSchema.safeParse(JSON.parse(json));
    if (parsed.success) return parsed.data as unknown as RunResult;
    notes.push(`result.json: ${firstIssue(parsed.error)}: reported as if the run had not finished`);
  } catch {
    notes.push('result.json is not JSON: reported as if the run had not finished');
  }
  return undefined;
}

async function readScores(
  dir: string,
  events: readonly Allocation[],
  notes: string[],
): Promise<ScoredRound[]> {
  const rounds: ScoredRound[] = [];
  for (const [i, event] of events.entries()) {
    if (!event.scores) continue;
    const json = await text(join(dir, event.scores));
    if (json === undefined) {
      notes.push(`${event.scores} is missing`);
      continue;
    }
    try {
      const parsed = scoresSchema.safeParse(JSON.parse(json));
      const pruned = new Set(event.pruned.map(({ module, index }) => `${module} ${index}`));
      if (parsed.success)
        rounds.push({ round: event.round ?? i + 1, step: event.step, scores: parsed.data, pruned });
      else notes.push(`${event.scores}: ${firstIssue(parsed.error)}: left out`);
    } catch {
      notes.push(`${event.scores} is not JSON: left out`);
    }
  }
  return rounds;
}
