import { type Command, Option } from 'commander';
import type { AnswersEvent } from '../../training/reporter.ts';
import { decimal, plural } from '../format.ts';
import { liveLine, progress } from '../liveLine.ts';
import { example, jsonOption, openRunFile, printJson, setOption } from '../options.ts';
import { coloursFor } from '../terminal.ts';

interface Options {
  readonly set: readonly string[];
  readonly adapter?: string;
  readonly split?: 'train' | 'dev' | 'test';
  readonly generated: boolean;
  readonly json?: boolean;
}

export function addVerb(program: Command): void {
  const command = program
    .command('eval')
    .argument('<run.yaml>', 'run file')
    .description("loss and the task's metrics of a split; without an adapter, the base model's")
    .option('--adapter <dir>', 'adapter in PEFT format')
    .addOption(
      new Option('--split <split>', 'rows to evaluate').choices(['train', 'dev', 'test']).default('dev'),
    )
    .option('--no-generated', 'leave out metrics of generated answers, which take a pass for every token')
    .addOption(setOption())
    .addOption(jsonOption())
    .action((file: string, options: Options) => evaluateSplit(file, options));
  example(command, 'npx onnx-alora eval run.yaml --adapter runs/run/best --split test');
}

async function evaluateSplit(file: string, { set, adapter, split, generated, json }: Options): Promise<void> {
  const { config, strategies, named } = await openRunFile(file, set);
  const { evaluate } = await import('../../index.ts');
  const out = process.stdout;
  const line = liveLine(out, () => performance.now());
  const onAnswers = ({ done, prompts }: AnswersEvent) => {
    if (json) return;
    if (done === 0) out.write(coloursFor(out).dim(`answers ${plural(prompts, 'prompt')} of ${split}\n`));
    line.draw(() => [...progress(done, prompts), 'answers']);
  };
  const evaluating = evaluate(config, { strategies, adapter, split, generated, onAnswers });
  const result = await named(evaluating).finally(line.clear);
  if (json) return printJson({ adapter: adapter ?? null, ...result });
  const scores = { loss: result.loss, ...result.metrics };
  const width = Math.max(...Object.keys(scores).map((name) => name.length));
  out.write(`${result.split} · ${plural(result.rows, 'row')} · ${adapter ?? 'base model'}\n`);
  for (const [name, value] of Object.entries(scores)) out.write(`${name.padEnd(width)}  ${decimal(value)}\n`);
}
