import { type ParseArgsConfig, parseArgs } from 'node:util';

/** The command line of a bench script; ends the process for --help, and with 2 where an option is wrong. */
export function readArguments<Config extends ParseArgsConfig>(help: string, config: Config) {
  if ((config.args ?? process.argv.slice(2)).includes('--help')) {
    console.log(help);
    process.exit(0);
  }
  try {
    return parseArgs(config);
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error));
  }
}

/** Words of a list, each of which must be known. */
export function words<T extends string>(option: string, list: string, known: readonly T[]): T[] {
  const given = list.split(',').filter(Boolean);
  const wrong = given.find((word) => !known.includes(word as T));
  if (wrong) refuse(`--${option}: '${wrong}' is none of ${known.join(', ')}`);
  return given as T[];
}

export function whole(option: string, text: string, least: number): number {
  const value = Number(text);
  return text !== '' && Number.isInteger(value) && value >= least
    ? value
    : refuse(`--${option}: '${text}' is not a whole number from ${least} on`);
}

/** Whole numbers of a list. */
export function wholes(option: string, list: string, least: number): number[] {
  return list
    .split(',')
    .filter(Boolean)
    .map((text) => whole(option, text, least));
}

export function refuse(message: string): never {
  console.error(message);
  process.exit(2);
}
