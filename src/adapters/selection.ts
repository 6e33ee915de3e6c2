import { AloraError, nearest } from '../errors.ts';
import type { LinearModule } from './module.ts';

export interface SelectionOptions {
  /** Names as in PEFT's modules_to_save: what they name, or what stands beneath, is never adapted. */
  readonly modulesToSave?: readonly string[];
}

/** A module path or its end; anything else in a list of targets is a regular expression over the whole name. */
const plainName = /^[A-Za-z0-9_.-]+$/;

/**
 * The modules to adapt, numbered anew in graph order. `all-linear`: every linear layer except the output
 * embedding, a head and modulesToSave, as in PEFT. A list: each item is a name ending at a dot boundary or
 * a regular expression over the whole name, and must match at least one module, else CONFIG_TARGET_UNMATCHED.
 * A head is never adapted: modulesToSave trains it. The name of a fused projection that is split stands for its parts.
 */
export function selectTargets(
  modules: readonly LinearModule[],
  targets: string | readonly string[],
  { modulesToSave = [] }: SelectionOptions = {},
): LinearModule[] {
  const saved = new Set(modulesToSave.flatMap((name) => modulesUnder(modules, name)));
  const open = modules.filter((module) => !saved.has(module) && module.role !== 'head');
  const items = typeof targets === 'string' ? [targets] : targets;
  const chosen = new Set(items.flatMap((item) => matches(open, item, modules)));
  if (chosen.size === 0)
    throw new AloraError('config', 'CONFIG_TARGET_UNMATCHED', 'There is no linear layer to adapt', {
      where: 'model.targets',
      got: items.join(', '),
      allowed: endings(open),
      fix: 'Run `onnx-alora inspect` on the model to see its modules.',
    });
  return open.filter((module) => chosen.has(module)).map((module, index) => ({ ...module, index }));
}

/** The modules that modulesToSave names (a module or everything beneath it), numbered anew in graph order. */
export function selectSaved(modules: readonly LinearModule[], names: readonly string[]): LinearModule[] {
  const chosen = new Set(
    names.flatMap((name) => {
      const found = modulesUnder(modules, name);
      if (found.length > 0) return found;
      throw unmatched('adapter.modulesToSave', name, modules);
    }),
  );
  return modules.filter((module) => chosen.has(module)).map((module, index) => ({ ...module, index }));
}

/** PEFT's rule for modules_to_save: the name stands anywhere in the path, at dot boundaries. */
function modulesUnder(modules: readonly LinearModule[], name: string): LinearModule[] {
  return modules.filter((module) => `.${module.name}.`.includes(`.${name}.`));
}

function matches(
  open: readonly LinearModule[],
  item: string,
  modules: readonly LinearModule[],
): LinearModule[] {
  if (item === 'all-linear') return open.filter((module) => module.role === 'linear');
  const matches = matcher(item);
  const found = open.filter((module) => matches(module) || (module.part && matches(module.part.of)));
  if (found.length === 0) throw unmatched('model.targets', item, open, modules);
  return found;
}

function matcher(item: string): (module: Pick<LinearModule, 'name'>) => boolean {
  if (plainName.test(item)) return ({ name }) => name === item || name.endsWith(`.${item}`);
  let whole: RegExp;
  try {
    whole = new RegExp(`^(?:${item})$`);
  } catch (cause) {
    throw new AloraError('config', 'CONFIG_TARGET_PATTERN', 'A target is not a valid regular expression', {
      where: 'model.targets',
      got: item,
      fix: 'Give a name ending (q_proj) or a JavaScript regular expression over the whole module name.',
      cause,
    });
  }
  return ({ name }) => whole.test(name);
}

/** Last segments of the modules' names, each once. */
function endings(modules: readonly LinearModule[]): string[] {
  return [...new Set(modules.map(({ name }) => name.split('.').at(-1) ?? name))];
}

function unmatched(
  where: string,
  item: string,
  open: readonly LinearModule[],
  modules: readonly LinearModule[] = open,
): AloraError {
  const excluded = open !== modules && plainName.test(item) && modulesUnder(modules, item).length > 0;
  const didYouMean = nearest(item, [...endings(open), ...open.map(({ name }) => name)]);
  return new AloraError(
    'config',
    'CONFIG_TARGET_UNMATCHED',
    excluded ? `'${item}' names a head or a module of modulesToSave` : `'${item}' matches no linear layer`,
    {
      where,
      got: item,
      allowed: ['all-linear', ...endings(open)],
      ...(didYouMean ? { didYouMean } : {}),
      fix: excluded
        ? 'Leave it out of model.targets: adapter.modulesToSave trains it fully.'
        : plainName.test(item)
          ? 'Name modules of this model; `onnx-alora inspect` lists them.'
          : 'A regular expression must match a whole name (begin it with .*); `onnx-alora inspect` lists the names.',
    },
  );
}
