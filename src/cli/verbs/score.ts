import { type Command, Option } from 'commander';
import type { ScoreResult } from '../../index.ts';
import { decimal, plural } from '../format.ts';
import { example, integer, jsonOption, openRunFile, printJson, setOption } from '../options.ts';

interface Options {
  readonly set: readonly string[];
  readonly adapter: string;
  readonly scorer: 'exact' | 'screened' | 'taylor' | 'sensitivity';
  readonly examples: number;
  readonly out?: string;
  readonly json?: boolean;
}

/** Ranks that the table shows at either end; scores.json has all. */
const shown = 8;

export function addVerb(program: Command): void {
  const command = program
    .command('score')
    .argument('<run.yaml>', 'run file')
    .description('importance of every rank of an adapter on dev rows, whoever trained it')
    .requiredOption('--adapter <dir>', 'adapter in PEFT format')
    .addOption(
      new Option('--scorer <scorer>', 'how importance is found')
        .choices(['exact', 'screened', 'taylor', 'sensitivity'])
        .default('exact'),
    )
    .addOption(new Option('--examples <n>', 'dev rows to score on').argParser(integer(1)).default(32))
    .option('--out <file>', 'also write the scores to this file')
    .addOption(setOption())
    .addOption(jsonOption())
    .action((file: string, options: Options) => score(file, options));
  example(command, 'npx onnx-alora score run.yaml --adapter runs/run/best --out scores.json');
}

async function score(file: string, { set, examples, json, ...options }: Options): Promise<void> {
  const { config, strategies, named } = await openRunFile(file, set);
  const { score: scoreRanks } = await import('../../index.ts');
  const result = await named(scoreRanks(config, { strategies, examples, ...options }));
  if (json) return printJson(result);
  process.stdout.write(`${table(result).join('\n')}\n`);
  if (options.out) process.stdout.write(`wrote ${options.out}\n`);
}

function table({ scorer, examples, full, base, modules, seconds }: ScoreResult): string[] {
  const ranks = Object.entries(modules).flatMap(([module, scores]) =>
    scores.flatMap(({ importance, ...score }) =>
      importance === null ? [] : [{ module, ...score, importance }],
    ),
  );
  ranks.sort((a, b) => b.importance - a.importance);
  const width = Math.max(6, ...ranks.map(({ module }) => module.length));
  const cell = (value: number | null) => (value === null ? '' : decimal(value)).padStart(10);
  const row = ({ module, index, without, only, importance }: (typeof ranks)[number]) =>
    `${module.padEnd(width)}${String(index).padStart(6)}${cell(without)}${cell(only)}${decimal(importance - base).padStart(13)}`;
  const head = `${'module'.padEnd(width)}${'rank'.padStart(6)}${'S without'.padStart(10)}${'S only'.padStart(10)}${'contribution'.padStart(13)}`;
  const rest = ranks.length - 2 * shown;
  return [
    `${plural(ranks.length, 'rank')} · ${scorer} · ${plural(examples, 'example')} · ${decimal(seconds)} s`,
    `S(adapter) ${decimal(full)} · S(base model) ${decimal(base)}`,
    '',
    head,
    ...(rest <= 0
      ? ranks.map(row)
      : [
          ...ranks.slice(0, shown).map(row),
          `… ${plural(rest, 'rank')} between`,
          ...ranks.slice(-shown).map(row),
        ]),
    '',
    'contribution = importance - S(base model): what the rank adds to the adapter; below 0, it does harm',
  ];
}
