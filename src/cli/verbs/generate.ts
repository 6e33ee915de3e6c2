import type { Command } from 'commander';
import { AloraError } from '../../errors.ts';
import { plural, thousands } from '../format.ts';
import { deviceOption, example, integer, jsonOption, number, printJson, threadsOption } from '../options.ts';
import { coloursFor, isLive } from '../terminal.ts';
import { namedByFlags } from '../typed.ts';

interface Options {
  readonly model: string;
  readonly file?: string;
  readonly adapter?: string;
  readonly prompt: string;
  readonly maxNewTokens: number;
  readonly temperature: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly repetitionPenalty?: number;
  readonly beams: number;
  readonly seed: number;
  readonly device: 'cpu' | 'cuda' | 'webgpu';
  readonly threads: number;
  readonly json?: boolean;
}

export function addVerb(program: Command): void {
  const command = program
    .command('generate')
    .description('continue a prompt with the base model, an adapter or a merged model')
    .requiredOption('--model <dir>', 'model directory')
    .option('--file <name>', 'ONNX file inside the directory')
    .option('--adapter <dir>', 'adapter in PEFT format')
    .requiredOption(
      '--prompt <text>',
      'text to continue (an encoder-decoder: to answer); - reads it from the standard input',
    )
    .option('--max-new-tokens <n>', 'tokens to generate at most', integer(1), 64)
    .option('--temperature <t>', '0: greedy; above: sampling', number(0), 0)
    .option('--top-k <k>', 'sample from the k likeliest tokens', integer(1))
    .option('--top-p <p>', 'sample from the likeliest tokens that reach this probability', number(0, 1))
    .option(
      '--repetition-penalty <x>',
      'above 1: tokens that stand there already become less likely',
      number(0.01),
    )
    .option('--beams <n>', 'beam search with so many beams', integer(1), 1)
    .option('--seed <n>', 'seed of sampling', integer(0), 0)
    .addOption(deviceOption())
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action((options: Options) => continuePrompt(options));
  example(
    command,
    'npx onnx-alora generate --model models/gpt2 --adapter runs/run/best --prompt "Once upon a time"',
  );
}

async function continuePrompt({ json, ...options }: Options): Promise<void> {
  const samples = options.temperature > 0;
  if (samples && options.beams > 1)
    throw conflict('--beams and --temperature exclude each other', 'drop one: beam search does not sample');
  if (!samples && (options.topK !== undefined || options.topP !== undefined))
    throw conflict('--top-k and --top-p need sampling', 'add --temperature 1');
  const prompt = options.prompt === '-' ? await readInput() : options.prompt;
  const { generate } = await import('../../index.ts');
  const named = namedByFlags({
    'model.path': '--model',
    'model.file': '--file',
    'runtime.device': '--device',
  });
  if (json) return printJson(await named(generate({ ...options, prompt })));
  const out = process.stdout;
  const colours = coloursFor(out);
  let begun = false;
  const write = (text: string) => {
    if (!begun) out.write(colours.dim(prompt));
    begun = true;
    out.write(text);
  };
  const generating = generate({ ...options, prompt, onText: write });
  const { text, tokens, tokensPerSecond, finish } = await named(generating);
  if (!begun) write(text);
  out.write('\n');
  const reason = finish === 'length' ? `, stopped by --max-new-tokens ${options.maxNewTokens}` : '';
  if (isLive(out))
    out.write(colours.dim(`${plural(tokens, 'token')} · ${thousands(tokensPerSecond)} tok/s${reason}\n`));
}

const conflict = (message: string, fix: string): AloraError =>
  new AloraError('usage', 'USAGE_CONFLICT', message, { fix });

async function readInput(): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('utf8').replace(/\n$/, '');
}
