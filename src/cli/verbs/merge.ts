import { type Command, Option } from 'commander';
import { AloraError } from '../../errors.ts';
import { decimal, plural } from '../format.ts';
import { deviceOption, example, jsonOption, openRunFile, printJson, threadsOption } from '../options.ts';
import { shortPath } from '../paths.ts';
import { coloursFor } from '../terminal.ts';
import { namedByFlags } from '../typed.ts';

interface Options {
  readonly model: string;
  readonly out: string;
  readonly pooling?: 'cls' | 'mean';
  readonly requantise?: boolean;
  readonly data?: string;
  readonly device: 'cpu' | 'cuda' | 'webgpu';
  readonly threads: number;
  readonly json?: boolean;
}

export function addVerb(program: Command): void {
  const command = program
    .command('merge')
    .argument('<adapter>', 'adapter in PEFT format')
    .description('fold an adapter into a copy of its model, and verify the copy on probe inputs')
    .requiredOption('--model <dir>', 'the model that the adapter was trained on')
    .requiredOption('--out <dir>', 'folder for the merged model, in transformers.js layout')
    .addOption(
      new Option(
        '--pooling <how>',
        'how a new classifier reads an encoder; default: as it was trained',
      ).choices(['cls', 'mean']),
    )
    .option(
      '--requantise',
      'fold the adapter into quantised weights too and quantise again, instead of a branch beside them',
    )
    .option('--data <run.yaml>', 'with --requantise: measure what it costs in loss on the dev rows of a run')
    .addOption(deviceOption())
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action((adapter: string, options: Options) => mergeAdapter(adapter, options));
  example(command, 'npx onnx-alora merge runs/run/best --model models/gpt2 --out models/gpt2-merged');
}

async function mergeAdapter(adapter: string, { data, json, ...options }: Options): Promise<void> {
  if (data !== undefined && !options.requantise)
    throw new AloraError('usage', 'USAGE_CONFLICT', '--data belongs to --requantise', {
      fix: 'add --requantise, or leave --data out',
    });
  const run = data === undefined ? undefined : await openRunFile(data, []);
  const { merge } = await import('../../index.ts');
  const flags = namedByFlags({
    'model.path': '--model',
    'model.pooling': '--pooling',
    'runtime.device': '--device',
  });
  const merging = flags(merge({ adapter, ...options, data: run?.config }));
  const result = await (run ? run.named(merging) : merging);
  if (json) return printJson(result);
  for (const warning of result.warnings)
    process.stderr.write(`${coloursFor(process.stderr).yellow('warning')}: ${warning}\n`);
  for (const { file, tensors } of result.merged)
    process.stdout.write(`merged ${plural(tensors.length, 'weight')} of ${file}\n`);
  for (const { file, modules } of result.branched)
    process.stdout.write(
      `kept ${file} quantised: the adapter stands beside ${plural(modules.length, 'module')}\n`,
    );
  for (const { file, modules } of result.requantised)
    process.stdout.write(`requantised ${plural(modules.length, 'module')} of ${file}\n`);
  if (result.classifier)
    process.stdout.write(
      `appended ${result.classifier.name} with ${result.classifier.classes} classes to ${result.classifier.files.join(', ')}\n`,
    );
  for (const file of result.untouched)
    process.stdout.write(`copied ${file}: it holds no weight of the adapter\n`);
  const requantised = new Set(result.requantised.map(({ file }) => file));
  for (const { file, maxDelta, largestLogit, rounded } of result.verification) {
    const delta = `${file}: max |delta logit| ${maxDelta.toExponential(2)} beside logits up to ${largestLogit.toPrecision(3)}`;
    // What quantising again costs outweighs the other rounding.
    const how = requantised.has(file) ? 'measured' : 'verified';
    const why = rounded && !requantised.has(file) ? ` (${rounded} round)` : '';
    process.stdout.write(`${how} ${delta}${why}\n`);
  }
  for (const { file, base, adapted, merged } of result.devLoss)
    process.stdout.write(
      `dev loss with ${file}: base ${decimal(base)}, adapter beside it ${decimal(adapted)}, requantised ${decimal(merged)}\n`,
    );
  process.stdout.write(`\nthe merged model is ${shortPath(result.folder)}\n`);
}
