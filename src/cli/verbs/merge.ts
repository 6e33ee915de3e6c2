import { type Command, Option } from 'commander';
import { plural } from '../format.ts';
import { deviceOption, example, jsonOption, printJson, threadsOption } from '../options.ts';
import { shortPath } from '../paths.ts';

interface Options {
  readonly model: string;
  readonly out: string;
  readonly pooling?: 'cls' | 'mean';
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
    .addOption(deviceOption())
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action((adapter: string, options: Options) => mergeAdapter(adapter, options));
  example(command, 'npx onnx-alora merge runs/run/best --model models/gpt2 --out models/gpt2-merged');
}

async function mergeAdapter(
  adapter: string,
  { model, out, pooling, device, threads, json }: Options,
): Promise<void> {
  const { merge } = await import('../../index.ts');
  const result = await merge({ adapter, model, out, pooling, device, threads });
  if (json) return printJson(result);
  for (const { file, tensors } of result.merged)
    process.stdout.write(`merged ${plural(tensors.length, 'weight')} of ${file}\n`);
  for (const { file, modules } of result.branched)
    process.stdout.write(
      `kept ${file} quantised: the adapter stands beside ${plural(modules.length, 'module')}\n`,
    );
  if (result.classifier)
    process.stdout.write(
      `appended ${result.classifier.name} with ${result.classifier.classes} classes to ${result.classifier.files.join(', ')}\n`,
    );
  for (const file of result.untouched)
    process.stdout.write(`copied ${file}: it holds no weight of the adapter\n`);
  for (const { file, maxDelta, largestLogit } of result.verification)
    process.stdout.write(
      `verified ${file}: max |delta logit| ${maxDelta.toExponential(2)} beside logits up to ${largestLogit.toPrecision(3)}\n`,
    );
  process.stdout.write(`\nthe merged model is ${shortPath(result.folder)}\n`);
}
