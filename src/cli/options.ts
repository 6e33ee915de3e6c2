import { type Command, InvalidArgumentError, Option } from 'commander';
import type { RunFile } from '../config/read.ts';
import type { AdapterStrategy } from '../strategy.ts';
import { type Named, namedByFile } from './typed.ts';

/** Parser of a whole number, at least `least`, for an option of commander. */
export const integer =
  (least: number) =>
  (text: string): number => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isInteger(value) || value < least)
      throw new InvalidArgumentError(`Allowed is an integer, at least ${least}.`);
    return value;
  };

/** Parser of a number in [least, most], for an option of commander. */
export const number =
  (least: number, most = Number.POSITIVE_INFINITY) =>
  (text: string): number => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || value < least || value > most) {
      const range = most === Number.POSITIVE_INFINITY ? `at least ${least}` : `from ${least} to ${most}`;
      throw new InvalidArgumentError(`Allowed is a number, ${range}.`);
    }
    return value;
  };

const collect = (value: string, before: readonly string[]): readonly string[] => [...before, value];

/** `--set a.b=value`, any number of times. */
export const setOption = (): Option =>
  new Option('--set <path=value>', 'override a key of the run file, the value in YAML; repeatable')
    .argParser(collect)
    .default([]);

export const jsonOption = (): Option => new Option('--json', 'print one JSON object');

export const deviceOption = (): Option =>
  new Option('--device <device>', 'execution provider').choices(['cpu', 'cuda', 'webgpu']).default('cpu');

export const threadsOption = (): Option =>
  new Option('--threads <n>', 'threads of ONNX Runtime; 0: one per core').argParser(integer(0)).default(0);

/** Text after the help of a verb. */
export const example = (command: Command, line: string): Command =>
  command.addHelpText('after', `\nExample:\n  ${line}`);

/** A run file, and what names its keys in refusals as the user wrote them. */
export interface OpenedRunFile extends RunFile<AdapterStrategy<unknown>> {
  readonly named: Named;
}

/** Reads the run file that a verb was given, `--set` applied. */
export async function openRunFile(file: string, set: readonly string[]): Promise<OpenedRunFile> {
  const [{ readRunFile }, { isKey }, strategies, { tasks }] = await Promise.all([
    import('../config/read.ts'),
    import('../config/jsonSchema.ts'),
    import('../strategies.ts'),
    import('../tasks/index.ts'),
  ]);
  const options = { strategies, tasks: Object.keys(tasks), set };
  const run = await readRunFile<AdapterStrategy<unknown>>(file, options);
  return { ...run, named: namedByFile(run.locate, isKey) };
}

/** One line of JSON on stdout. */
export const printJson = (value: unknown): void => {
  process.stdout.write(`${JSON.stringify(value)}\n`);
};
