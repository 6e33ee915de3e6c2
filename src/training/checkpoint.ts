import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import type { AdapterLayout, AdapterSet } from '../adapters/adapterSet.ts';
import type { Json } from '../adapters/strategy.ts';
import { recoverFoldersIn, replaceFolder, writeFileAtomic } from '../atomicFiles.ts';
import type { RunConfig } from '../config/schema.ts';
import { configHash, differences } from '../config/write.ts';
import { AloraError } from '../errors.ts';
import type { LedgerState } from './ledger.ts';
import type { RunResult, SampleEvent, SplitResult } from './reporter.ts';
import type { RunFolder } from './runFolder.ts';

/** What the evaluations of a run have shown so far. */
export interface EvaluationState {
  readonly best: { readonly step: number; readonly loss: number; readonly evaluations: number };
  /** Scores at step 0, at the best step and at the last evaluation. */
  readonly firstDev: SplitResult | null;
  readonly bestDev: SplitResult | null;
  readonly lastDev: SplitResult | null;
  readonly firstTest: SplitResult | null;
  readonly samples: readonly SampleEvent[];
}

/** What a run needs beside its parameters to go on as if it had not been stopped. */
export interface TrainingState {
  readonly step: number;
  /** The last step is made, and the strategy has finished. */
  readonly ended: boolean;
  /** Batches of the held-back rows that were used (DNAS). */
  readonly heldBackBatches: number;
  readonly evaluation: EvaluationState;
  readonly ledger: LedgerState;
  readonly scheduler: Json;
  readonly allocations: number;
  readonly secondsAllocating: number;
  readonly seconds: number;
}

/** Before step 0. */
export const initialState: TrainingState = {
  step: 0,
  ended: false,
  heldBackBatches: 0,
  evaluation: {
    best: { step: 0, loss: Number.POSITIVE_INFINITY, evaluations: 0 },
    firstDev: null,
    bestDev: null,
    lastDev: null,
    firstTest: null,
    samples: [],
  },
  ledger: { steps: 0, parameterSum: 0, rankSum: 0, peakParameters: 0, peakRanks: 0 },
  scheduler: null,
  allocations: 0,
  secondsAllocating: 0,
  seconds: 0,
};

/** Identity of what a checkpoint belongs to: sha256 of model file, data files and configuration. */
export type RunHashes = Readonly<Record<string, string>>;

/** The run that wants to go on. */
interface CurrentRun {
  readonly config: RunConfig;
  readonly hashes: RunHashes;
}

interface Manifest {
  readonly format: typeof format;
  /** sha256 of arena.bin. */
  readonly arena: string;
  readonly state: TrainingState;
  readonly layout: AdapterLayout;
  readonly hashes: RunHashes;
  readonly scalars: number;
  readonly rows: number;
}

const arenaArrays = ['values', 'gradients', 'firstMoments', 'secondMoments'] as const;
/** Of state.json. */
const format = 2;
/** Checkpoints that stay. */
const kept = 2;

function checkpointName(step: number): string {
  return `step-${String(step).padStart(6, '0')}`;
}

function bytesOf(view: Float32Array | Int32Array): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Writes `checkpoints/step-NNNNNN/` atomically and keeps the newest two. Returns the path within the run. */
export function writeCheckpoint(
  folder: RunFolder,
  state: TrainingState,
  adapters: AdapterSet,
  hashes: RunHashes,
): string {
  const name = checkpointName(state.step);
  const arena = Buffer.concat([
    ...arenaArrays.map((array) => bytesOf(adapters[array])),
    bytesOf(adapters.steps),
  ]);
  replaceFolder(folder.file('checkpoints', name), (path) => {
    const manifest: Manifest = {
      format,
      arena: sha256(arena),
      state,
      layout: adapters.saveLayout(),
      hashes,
      scalars: adapters.values.length,
      rows: adapters.steps.length,
    };
    writeFileAtomic(join(path, 'state.json'), JSON.stringify(manifest));
    writeFileAtomic(join(path, 'arena.bin'), [arena]);
  });
  for (const old of checkpointNames(folder).slice(0, -kept))
    rmSync(folder.file('checkpoints', old), { recursive: true, force: true });
  return join('checkpoints', name);
}

/** Whole checkpoints, oldest first. */
function checkpointNames(folder: RunFolder): string[] {
  const path = folder.file('checkpoints');
  if (!existsSync(path)) return [];
  recoverFoldersIn(path);
  const stepOf = (name: string) => Number(name.slice('step-'.length));
  return readdirSync(path)
    .filter((name) => /^step-\d+$/.test(name))
    .sort((a, b) => stepOf(a) - stepOf(b));
}

/**
 * Restores the newest readable checkpoint into the adapters and returns its state; undefined where there is
 * none. An unreadable one is passed over with a warning for the one before it.
 * Errors: CHECKPOINT_UNREADABLE where none can be read, CHECKPOINT_OTHER_RUN where model, data or
 * configuration are not those that it was written with.
 */
export function restoreCheckpoint(
  folder: RunFolder,
  adapters: AdapterSet,
  run: CurrentRun,
  warn: (message: string) => void,
): TrainingState | undefined {
  const names = checkpointNames(folder).reverse();
  for (const name of names) {
    const path = folder.file('checkpoints', name);
    let manifest: Manifest;
    let arena: Buffer;
    try {
      manifest = JSON.parse(readFileSync(join(path, 'state.json'), 'utf8')) as Manifest;
      arena = readFileSync(join(path, 'arena.bin'));
      const expected = 4 * (arenaArrays.length * manifest.scalars + manifest.rows);
      if (manifest.format !== format) throw new Error(`format ${manifest.format}`);
      if (arena.byteLength !== expected)
        throw new Error(`arena.bin has ${arena.byteLength} bytes instead of ${expected}`);
      if (manifest.arena !== sha256(arena)) throw new Error('arena.bin is not what was written');
    } catch (cause) {
      warn(
        `checkpoint ${name} cannot be read (${cause instanceof Error ? cause.message : cause}); trying an older one`,
      );
      continue;
    }
    requireSameRun(folder, path, manifest.hashes, run);
    adapters.restoreLayout(manifest.layout);
    const bytes = arena.buffer.slice(arena.byteOffset, arena.byteOffset + arena.byteLength) as ArrayBuffer;
    arenaArrays.forEach((array, i) => {
      adapters[array].set(new Float32Array(bytes, 4 * i * manifest.scalars, manifest.scalars));
    });
    adapters.steps.set(new Int32Array(bytes, 4 * arenaArrays.length * manifest.scalars, manifest.rows));
    const { evaluation } = manifest.state;
    // Infinity is not a JSON number: no evaluation so far reads back as null.
    const best = { ...evaluation.best, loss: evaluation.best.loss ?? Number.POSITIVE_INFINITY };
    return { ...manifest.state, evaluation: { ...evaluation, best } };
  }
  if (names.length > 0)
    throw new AloraError('storage', 'CHECKPOINT_UNREADABLE', 'No checkpoint of the run can be read', {
      where: names.map((name) => folder.file('checkpoints', name)).join(', '),
      fix: 'Restore the folder from a copy, or start again with --force.',
    });
  return undefined;
}

function requireSameRun(folder: RunFolder, path: string, saved: RunHashes, run: CurrentRun): void {
  for (const [what, hash] of Object.entries(run.hashes))
    if (saved[what] !== hash)
      throw new AloraError(
        'config',
        'CHECKPOINT_OTHER_RUN',
        `The checkpoint was written with another ${what}`,
        {
          where: path,
          ...(what === 'configuration' ? configurations(folder, run.config) : {}),
          fix: `Resume with the ${what} of that run, or start a new one in another output folder.`,
        },
      );
}

/** What the run file says now, and what it said when the run began. */
function configurations(folder: RunFolder, config: RunConfig): { got?: string; allowed?: string } {
  try {
    const changed = differences(readFileSync(folder.file('run.yaml'), 'utf8'), config, folder.path);
    const list = (of: 'here' | 'there') => changed.map((at) => `${at.key}: ${at[of]}`).join(', ');
    return changed.length === 0 ? {} : { got: list('here'), allowed: list('there') };
  } catch {
    // run.yaml is gone or was changed by hand.
    return {};
  }
}

/** Refuses to take a finished run for one of another configuration. Errors: CHECKPOINT_OTHER_RUN. */
export function requireSameConfiguration(folder: RunFolder, result: RunResult, given: RunConfig): void {
  const config = withMaxLength(given, folder);
  if (result.configHash === configHash(config)) return;
  throw new AloraError(
    'config',
    'CHECKPOINT_OTHER_RUN',
    'The run in the output folder is finished, and had another configuration',
    {
      where: folder.path,
      ...configurations(folder, config),
      fix: 'Set another output, or replace that run with --force.',
    },
  );
}

/** Where data.maxLength is not given, the one that the run took from its model (see prepareRun). */
function withMaxLength(config: RunConfig, folder: RunFolder): RunConfig {
  if (config.data.maxLength !== undefined) return config;
  try {
    const { maxLength } = parse(readFileSync(folder.file('run.yaml'), 'utf8')).data;
    return { ...config, data: { ...config.data, maxLength } };
  } catch {
    return config;
  }
}
