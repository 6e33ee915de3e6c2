import { Command, type CommanderError, Help, Option } from 'commander';
import { AloraError, nearest } from '../errors.ts';
import { packageVersion } from './installation.ts';
import { addVerb as compare } from './verbs/compare.ts';
import { addVerb as data } from './verbs/data.ts';
import { addVerb as env } from './verbs/env.ts';
import { addVerb as evaluate } from './verbs/eval.ts';
import { addVerb as generate } from './verbs/generate.ts';
import { addVerb as graph } from './verbs/graph.ts';
import { addVerb as init } from './verbs/init.ts';
import { addVerb as inspect } from './verbs/inspect.ts';
import { addVerb as merge } from './verbs/merge.ts';
import { addVerb as report } from './verbs/report.ts';
import { addVerb as schema } from './verbs/schema.ts';
import { addVerb as score } from './verbs/score.ts';
import { addVerb as train } from './verbs/train.ts';

/** A verb adds its command; one file and one line here. */
const verbs = [
  init,
  inspect,
  data,
  train,
  evaluate,
  generate,
  score,
  compare,
  report,
  merge,
  graph,
  schema,
  env,
];

/** The line of an option: says what must be given, and is silent about lists that are empty by default. */
function optionDescription(option: Option): string {
  const { mandatory, defaultValue } = option;
  const shown = Array.isArray(defaultValue)
    ? Object.create(option, { defaultValue: { value: undefined } })
    : option;
  return `${new Help().optionDescription(shown)}${mandatory ? ' (required)' : ''}`;
}

/** The command line. A mistake in it throws a CommanderError, which `usageError` words as one of ours. */
export function createProgram(): Command {
  const program = new Command('onnx-alora')
    .description('Adapter training (LoRA, AdaLoRA, SoRA, ALoRA) for ONNX transformers.')
    .version(packageVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand('help [command]', 'print this help, or that of a command')
    .showSuggestionAfterError(true)
    .addHelpText('after', '\nStart with `npx onnx-alora init`, then `npx onnx-alora train run.yaml`.');
  for (const addVerb of verbs) addVerb(program);
  for (const command of [program, ...program.commands]) {
    command
      .exitOverride()
      .configureOutput({ writeErr: () => {} })
      .configureHelp({ optionDescription });
    if (command !== program) command.addOption(new Option('--verbose', 'print stack traces'));
    command.hook('preAction', (_, action) => refuseEmpty(action));
  }
  return program;
}

/** An empty word is a variable of the shell that holds nothing: as a path it would mean the working directory. */
function refuseEmpty(action: Command): void {
  const empty = [
    ...action.registeredArguments.flatMap((argument, i) =>
      action.args[i] === '' ? [`<${argument.name()}>`] : [],
    ),
    ...action.options.flatMap((option) =>
      option.long && option.long !== '--prompt' && action.getOptionValue(option.attributeName()) === ''
        ? [option.long]
        : [],
    ),
  ][0];
  if (empty === undefined) return;
  throw new AloraError('usage', 'USAGE_EMPTY', `${empty} is empty`, {
    where: `onnx-alora ${action.name()}`,
    fix: `give ${empty} a value; a variable of the shell that is not set gives none`,
  });
}

/** A mistake in the command line as one of our errors; undefined for help and version, which are none. */
export function usageError(error: CommanderError, argv: readonly string[]): AloraError | undefined {
  const [first, verb] = argv;
  if (error.exitCode !== 0 && first === 'help' && verb !== undefined) {
    const names = createProgram().commands.map((command) => command.name());
    return new AloraError('usage', 'USAGE_UNKNOWN_COMMAND', `unknown command '${verb}'`, {
      where: `onnx-alora ${argv.join(' ')}`,
      allowed: names,
      didYouMean: nearest(verb, names),
      fix: '`npx onnx-alora --help` shows what there is',
    });
  }
  if (error.exitCode === 0 || error.code === 'commander.help') return undefined;
  const [what, ...suggestions] = error.message.replace(/^error: /, '').split('\n');
  const didYouMean = /Did you mean (?:one of )?(.*)\?/.exec(suggestions.join(' '))?.[1];
  const code = error.code.replace('commander.', '').replace(/[A-Z]/g, '_$&').toUpperCase();
  return new AloraError('usage', `USAGE_${code}`, what!, {
    where: `onnx-alora ${argv.join(' ')}`.trim(),
    didYouMean,
    fix: `\`npx onnx-alora ${verbOf(argv)}--help\` shows what there is`,
  });
}

const verbOf = (argv: readonly string[]): string => {
  const verb = argv.find((word) => !word.startsWith('-'));
  return verb !== undefined && createProgram().commands.some((command) => command.name() === verb)
    ? `${verb} `
    : '';
};
