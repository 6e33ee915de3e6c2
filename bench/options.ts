import { readArguments, whole, words } from './arguments.ts';
import { computes, type Labelling, labellings, models } from './cases.ts';
import { type Variant, variants } from './processes.ts';
import type { BenchTable } from './table.ts';

type Tables = Readonly<Record<string, BenchTable>>;

/** Ratios that the guard compares with, in the repository. */
const storedRatios = 'bench/ratios.json';

export interface BenchOptions {
  readonly tables: readonly string[];
  readonly models: readonly string[];
  readonly labellings: readonly Labelling[];
  readonly peers: readonly Variant[];
  /** Processes of each configuration. */
  readonly repeat: number;
  /** Measured steps of a process. */
  readonly steps: number;
  /** 0: one a core. */
  readonly threads: number;
  /** Of ours: model.compute. */
  readonly compute: (typeof computes)[number];
  /** Of ours: train.recompute. */
  readonly recompute: boolean;
  /** Files with ratios to compare with, and to write them to. */
  readonly check?: string;
  readonly store?: string;
  readonly json: boolean;
  readonly out?: string;
}

const help = (tables: Tables) => `npm run bench -- [options]

Measures; each configuration in a process of its own, medians with their range. Tables:

${Object.entries(tables)
  .map(([name, { about }]) => `  ${name.padEnd(9)} ${about}`)
  .join('\n')}

Models have real shapes and random weights.

  --tables <names>   ${Object.keys(tables).join(',')} (default step)
  --models <names>   ${Object.keys(models).join(',')} (default gpt2)
  --cases <names>    ${labellings.join(',')} (default: those of the model)
  --peers <names>    ${variants.join(',')}, or none (default eager,bf16-weights)
  --repeat <n>       processes of each configuration (default 2)
  --steps <n>        measured steps of a process (default 3)
  --threads <n>      0: one a core (default 0)
  --compute <name>   ${computes.join(' or ')}: model.compute of ours (default float32)
  --recompute        train.recompute of ours
  --check [file]     exit with 1 where a ratio has fallen by more than 15 % below the stored one (${storedRatios})
  --store [file]     store the ratios of this run for --check (${storedRatios})
  --json             print the results as JSON instead of tables
  --out <file>       write them to a file, and figures as SVG beside it`;

/** The options of the command line; ends the process for --help, and with 2 where one is wrong. */
export function readOptions(tables: Tables): BenchOptions {
  // An option whose value may be left out, which parseArgs does not know.
  const given = process.argv
    .slice(2)
    .map((word, i, all) =>
      /^--(check|store)$/.test(word) && (all[i + 1] ?? '--').startsWith('--')
        ? `${word}=${storedRatios}`
        : word,
    );
  const { values: options } = readArguments(help(tables), {
    args: given,
    options: {
      tables: { type: 'string', default: 'step' },
      models: { type: 'string', default: 'gpt2' },
      cases: { type: 'string', default: labellings.join(',') },
      peers: { type: 'string', default: 'eager,bf16-weights' },
      repeat: { type: 'string', default: '2' },
      steps: { type: 'string', default: '3' },
      threads: { type: 'string', default: '0' },
      compute: { type: 'string', default: 'float32' },
      recompute: { type: 'boolean', default: false },
      check: { type: 'string' },
      store: { type: 'string' },
      json: { type: 'boolean', default: false },
      out: { type: 'string' },
    },
  });
  return {
    tables: words('tables', options.tables, Object.keys(tables)),
    models: words('models', options.models, Object.keys(models)),
    labellings: words('cases', options.cases, labellings),
    peers: options.peers === 'none' ? [] : words('peers', options.peers, variants),
    repeat: whole('repeat', options.repeat, 1),
    steps: whole('steps', options.steps, 1),
    threads: whole('threads', options.threads, 0),
    compute: words('compute', options.compute, computes)[0] ?? 'float32',
    recompute: options.recompute,
    check: options.check,
    store: options.store,
    json: options.json,
    out: options.out,
  };
}
