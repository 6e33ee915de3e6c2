import { AloraError } from '../errors.ts';
import { attribute, Builder } from '../onnx/builder.ts';
import type { AttributeInit, Dim, Graph, Node, Value } from '../onnx/graph.ts';
import type { TargetModule } from './module.ts';
import type { Budget, GraphRewriter, Injection, ParameterSpec, ValueRef } from './strategy.ts';

/** Where a module sits in the graph. */
export interface ModuleSite {
  readonly input: Value;
  /** The product, before the bias. */
  readonly output: Value;
  readonly weight: { readonly value: Value; readonly layout: 'in-out' | 'out-in' };
}

/** Name of the graph input that feeds a parameter. */
export function parameterInput(module: TargetModule, role: string): string {
  return `${module.name}.${role}`;
}

/** Whether a parameter is one scalar a row, as gates and biases are. */
export function isVector({ width, matrix }: ParameterSpec): boolean {
  return width === 1 && !matrix;
}

/** Shape of a parameter with so many rows. */
export function parameterShape<Rows extends Dim>(spec: ParameterSpec, rows: Rows): (Rows | number)[] {
  return isVector(spec) ? [rows] : [rows, spec.width];
}

/** Name of the graph input with the scaled keep mask of a module's dropout. */
export function dropoutInput(module: TargetModule): string {
  return `${module.name}.dropout`;
}

export interface RewriterOptions {
  readonly alpha?: number;
  readonly budget: Budget;
  /** Scale by module name, where the run starts from an adapter. */
  readonly scalings?: ReadonlyMap<string, number>;
  /** With dropout, x is multiplied by a mask that the host feeds: 0 or 1/(1-p) for each entry. */
  readonly dropout?: boolean;
}

/** The rewriter over a graph, and the parameters that were declared through it, by module. */
export interface RewriterSession {
  readonly rewriter: GraphRewriter;
  readonly parameters: ReadonlyMap<TargetModule, ParameterSpec[]>;
  /**
   * Calls `inject` once for every use of the module in the graph; a layer that several blocks share (ALBERT)
   * has several. Parameters are declared at the first use and shared by the others.
   */
  injectAt(module: TargetModule, inject: (rewriter: GraphRewriter) => Injection): Injection;
}

/**
 * Opens a graph for strategies. Parameters become graph inputs: `<module>.<role>`, float32, their rank
 * dimension symbolic (`<module>.rank`), so that pruning and growing never rebuild a session.
 */
export function openRewriter(
  graph: Graph,
  sites: ReadonlyMap<TargetModule, readonly ModuleSite[]>,
  options: RewriterOptions,
): RewriterSession {
  const builder = new Builder(graph, '/adapters');
  const parameters = new Map<TargetModule, ParameterSpec[]>();
  const inputs = new Map<string, Value>();
  const dropped = new Map<ModuleSite, Value>();
  /** What stands in the place of a module's output. Another module may read that output directly. */
  const replaced = new Map<Value, Value>();
  const added = new Set<Node>();
  let use = 0;
  const site = (module: TargetModule): ModuleSite => {
    const found = sites.get(module)?.[use];
    if (!found)
      throw new AloraError(
        'model',
        'STRATEGY_UNKNOWN_MODULE',
        'A strategy asked for a module that is not a target',
        {
          got: module.name,
          fix: 'Use the module objects that inject() is called with.',
        },
      );
    return found;
  };
  const rewriter: GraphRewriter = {
    alpha: options.alpha,
    budget: options.budget,
    inheritedScaling: (module) => options.scalings?.get(module.name),
    scaling: (module) =>
      options.scalings?.get(module.name) ??
      (options.alpha === undefined ? 1 : options.alpha / options.budget.rank),
    input(module) {
      const place = site(module);
      const x = replaced.get(place.input) ?? place.input;
      if (!options.dropout) return x;
      let masked = dropped.get(place);
      if (!masked) {
        const name = dropoutInput(module);
        const mask = inputs.get(name) ?? graph.input(name, 'float32', x.shape ?? []);
        inputs.set(name, mask);
        masked = builder.op('Mul', [x, mask], { dtype: 'float32', shape: x.shape });
        dropped.set(place, masked);
      }
      return masked;
    },
    output: (module) => replaced.get(site(module).output) ?? site(module).output,
    weight: (module) => site(module).weight,
    parameter(module, spec) {
      const name = parameterInput(module, spec.role);
      const shared = use > 0 ? inputs.get(name) : undefined;
      if (shared) return shared;
      const specs = parameters.get(module) ?? [];
      if (specs.some((other) => other.role === spec.role))
        throw new AloraError(
          'model',
          'STRATEGY_DUPLICATE_PARAMETER',
          'A strategy declared a parameter twice',
          {
            where: module.name,
            got: spec.role,
            fix: 'Give each parameter of a module its own role.',
          },
        );
      parameters.set(module, [...specs, spec]);
      const rows: Dim = spec.rows === 'rank' ? `${module.name}.rank` : spec.rows;
      const value = graph.input(name, 'float32', parameterShape(spec, rows));
      inputs.set(name, value);
      return value;
    },
    op(
      op,
      inputs: readonly (ValueRef | null)[],
      attributes: Readonly<Record<string, AttributeInit>> = {},
      shape,
    ) {
      const value = builder.op(op, inputs, {
        attributes,
        dtype: inputs[0]?.dtype,
        shape: shape ?? inferShape(op, inputs, attributes),
      });
      added.add(value.producer!);
      return value;
    },
    scalar: (value) => builder.scalar(value),
    ints: (values) => builder.ints(values),
    replaceOutput(module, value) {
      const old = rewriter.output(module);
      const own = madeOf(value, added);
      // An output keeps its name; other values show by theirs who made them.
      if (graph.outputs.includes(old)) graph.takePlace(old, value, own);
      else graph.replaceUses(old, value, own);
      replaced.set(site(module).output, value);
    },
  };
  return {
    rewriter,
    parameters,
    injectAt(module, inject) {
      const uses = sites.get(module)?.length ?? 0;
      let injection: Injection | undefined;
      for (use = 0; use < uses; use++) injection = inject(rewriter);
      use = 0;
      return injection!;
    },
  };
}

/** The added nodes that a value is computed by: what takes the place of an output may read it anywhere. */
function madeOf(value: Value, added: ReadonlySet<Node>): Set<Node> {
  const nodes = new Set<Node>();
  const pending: (Value | null)[] = [value];
  while (pending.length > 0) {
    const node = pending.pop()?.producer;
    if (!node || !added.has(node) || nodes.has(node)) continue;
    nodes.add(node);
    pending.push(...node.inputs);
  }
  return nodes;
}

/** Shapes of the few operators that low-rank strategies add; null leaves the question to type inference. */
function inferShape(
  op: string,
  inputs: readonly (ValueRef | null)[],
  attributes: Readonly<Record<string, AttributeInit>>,
): readonly Dim[] | null {
  const [a, b] = inputs.map((value) => value?.shape ?? null);
  if (!a) return null;
  switch (op) {
    case 'Transpose': {
      const perm = attributes.perm === undefined ? undefined : attribute(attributes.perm);
      return perm?.type === 'ints' ? perm.value.map((axis) => a[axis]!) : [...a].reverse();
    }
    case 'MatMul':
      return b && a.length >= 2 && b.length === 2 ? [...a.slice(0, -1), b[1]!] : null;
    case 'Add':
    case 'Sub':
    case 'Mul':
    case 'Div':
      return b && b.length <= a.length ? a : null;
    default:
      return null;
  }
}
