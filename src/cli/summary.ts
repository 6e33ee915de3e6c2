import { join } from 'node:path';
import type { RunInfo, RunResult, SampleEvent, SplitResult } from '../training/reporter.ts';
import { bytes, clock, decimal, plural, thousands } from './format.ts';
import { shellWord, shortPath } from './paths.ts';
import type { Colours } from './terminal.ts';

/** What a finished run leaves on the screen: scores before and after, samples, budget, files, next commands. */
export function runSummary(
  run: RunInfo,
  result: RunResult,
  samples: readonly SampleEvent[],
  colours: Colours,
): string {
  const lines: string[] = [];
  const section = (name: string, texts: readonly string[]) => {
    for (const [i, text] of texts.entries())
      lines.push(`${colours.dim((i === 0 ? name : '').padEnd(10))}${text}`);
  };
  const early = result.stoppedEarly ? ', stopped early: dev no longer improved' : '';
  section('finished', [
    `${clock(result.seconds)} · step ${result.steps} of ${result.totalSteps}${early} · peak memory ${bytes(result.peakMemory)}`,
  ]);
  if (result.dev)
    section('dev', changes(result.dev.before, result.dev.best, colours, ` (best, step ${result.bestStep})`));
  if (result.test) section('test', changes(result.test.before, result.test.best, colours, ''));
  const { budget } = result;
  section('budget', [
    `${thousands(budget[budget.at].parameters)} of ${thousands(budget.target)} trained scalars, ${budget.at} · peak ${thousands(budget.peak.parameters)} · average ${thousands(budget.average.parameters)}`,
  ]);
  if (result.allocations > 0)
    section('ranks', [
      `moved in ${plural(result.allocations, 'allocation')}, ${result.secondsAllocating.toFixed(1)} s in all`,
    ]);
  const [before, after] = ['before', 'after'].map((when) => samples.find((sample) => sample.when === when));
  if (before && after)
    section('sample', [
      quote(before.prompt),
      `${colours.dim('before')}  ${quote(before.text)}`,
      `${colours.dim('after ')}  ${colours.green(quote(after.text))}`,
    ]);
  const out = shortPath(run.output);
  const model = shortPath(run.model.path);
  section('files', [
    `${join(out, 'best')}  ${colours.dim('the best adapter on dev, PEFT format')}`,
    `${join(out, 'report.html')}  ${colours.dim('curves, ranks, parameters')}`,
  ]);
  // A model that writes has written a sample; others classify, tag or transcribe. Only the whole prompt gives it again.
  const prompt = (after ?? before)?.prompt;
  const typed = prompt !== undefined && isTyped(prompt);
  const split = result.test ? 'test' : result.dev ? 'dev' : 'train';
  const [best, base] = [shellWord(join(out, 'best')), shellWord(model)];
  section('next', [
    !typed
      ? `npx onnx-alora eval ${shellWord(join(out, 'run.yaml'))} --adapter ${best} --split ${split}`
      : `npx onnx-alora generate --model ${base} --adapter ${best} --prompt ${/^\w+$/.test(prompt) ? `"${prompt}"` : shellWord(prompt)}`,
    `npx onnx-alora merge ${best} --model ${base} --out ${shellWord(join(out, 'merged'))}`,
  ]);
  return lines.join('\n');
}

/** One line a score: `loss 4.1023 -> 0.2311`. */
function changes(
  before: SplitResult | undefined,
  after: SplitResult,
  colours: Colours,
  note: string,
): string[] {
  const metrics = Object.entries(after.metrics).map(
    ([name, value]) => [name, before?.metrics[name], value] as const,
  );
  const rows: (readonly [string, number | undefined, number])[] = [
    ['loss', before?.loss, after.loss],
    ...metrics,
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, from, to], i) => {
    const start = from === undefined ? '' : `${decimal(from)} -> `;
    return `${name.padEnd(width)}  ${start}${colours.bold(decimal(to))}${i === 0 ? note : ''}`;
  });
}

/** Whether a prompt can be part of a command: cmd.exe takes no line ends, and nobody wants a page of text there. */
const isTyped = (prompt: string): boolean =>
  prompt.length <= 300 && !(process.platform === 'win32' && /[\n"]/.test(prompt));

const quote = (text: string): string => {
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length > 160 ? `${line.slice(0, 157)}...` : line;
};
