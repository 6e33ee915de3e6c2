import { describe, expect, it } from 'vitest';
import { differentiate } from '../../src/autodiff/differentiate.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { Graph, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { fold } from '../../src/passes/fold.ts';
import { inferTypes } from '../../src/passes/inferTypes.ts';
import { randomStream } from '../../src/random.ts';
import fc from '../fastCheck.ts';
import { type Numbers, session } from './run.ts';

/** A value and the lengths that it has at run time, whatever the graph knows of them. */
interface Known {
  readonly value: Value;
  readonly dims: readonly number[];
}

/** Numbers that decide what is written next; each use takes one. */
type Choose = (count: number) => number;

const axisOf = ({ dims }: Known, choose: Choose) => choose(dims.length);
const swapped = (dims: readonly number[], axis: number, length: number) => dims.with(axis, length);

/**
 * Operators by what they do to lengths. Those whose gradients the emitter joins with others stand here in number:
 * pieces of an axis, expanded values, products with numbers, transposes.
 */
const steps: Record<string, (make: Builder, x: Known, choose: Choose, all: readonly Known[]) => Known> = {
  Tanh: (make, x) => ({ ...x, value: make.op('Tanh', [x.value]) }),
  'times a number': (make, x, choose) => ({
    ...x,
    value: make.op('Mul', [x.value, make.scalar([-1, 0.5, 2, 1][choose(4)]!, 'float64')]),
  }),
  'a binary operator': (make, x, choose, all) => {
    const fits = all.filter(
      ({ dims }) =>
        dims.length <= x.dims.length &&
        dims.every((dim, i) => dim === 1 || dim === x.dims[x.dims.length - dims.length + i]),
    );
    const other = fits[choose(fits.length)]!;
    const pair = choose(2) === 0 ? [x.value, other.value] : [other.value, x.value];
    return { ...x, value: make.op(['Add', 'Sub', 'Mul'][choose(3)]!, pair) };
  },
  'a weight': (make, x, choose) => {
    const [inner, out] = [x.dims.at(-1)!, 1 + choose(3)];
    const weight = Float64Array.from({ length: inner * out }, (_, i) => Math.sin(1 + i + 3 * out));
    const constant = make.constant('weight', Tensor.float64(weight, [inner, out]));
    return { value: make.op('MatMul', [x.value, constant]), dims: [...x.dims.slice(0, -1), out] };
  },
  Transpose: (make, x, choose) => {
    const axis = axisOf(x, choose);
    const perm = [...x.dims.keys()].filter((i) => i !== axis);
    perm.push(axis);
    return {
      value: make.op('Transpose', [x.value], { attributes: { perm } }),
      dims: perm.map((i) => x.dims[i]!),
    };
  },
  'a new axis': (make, x, choose) => {
    const axis = choose(x.dims.length + 1);
    return {
      value: make.op('Unsqueeze', [x.value, make.ints([axis])]),
      dims: x.dims.toSpliced(axis, 0, 1),
    };
  },
  Reshape: (make, x) => ({
    value: make.op('Reshape', [x.value, make.ints([0, -1])]),
    dims: [x.dims[0]!, x.dims.slice(1).reduce((a, b) => a * b, 1)],
  }),
  'the halves of an axis, exchanged or one of them': (make, x, choose) => {
    const axis = axisOf(x, choose);
    const length = x.dims[axis]!;
    const at = Math.ceil(length / 2);
    const cut = (from: number, to: number) =>
      make.op('Slice', [x.value, make.ints([from]), make.ints([to]), make.ints([axis])]);
    const [first, second] = [cut(0, at), cut(at, 2 ** 31 - 1)];
    if (choose(3) === 0) return { value: first, dims: swapped(x.dims, axis, at) };
    return { ...x, value: make.op('Concat', [second, first], { attributes: { axis } }) };
  },
  'parts of an axis': (make, x, choose) => {
    const axis = axisOf(x, choose);
    const first = 1 + choose(x.dims[axis]!);
    const lengths = [first, x.dims[axis]! - first];
    const parts = make.node('Split', [x.value, make.ints(lengths)], 2, { attributes: { axis } }).outputs;
    return { value: parts[0]!, dims: swapped(x.dims, axis, first) };
  },
  'every second': (make, x, choose) => {
    const axis = axisOf(x, choose);
    const bounds = [make.ints([-1]), make.ints([-(2 ** 31)]), make.ints([axis]), make.ints([-2])];
    return {
      value: make.op('Slice', [x.value, ...bounds]),
      dims: swapped(x.dims, axis, Math.ceil(x.dims[axis]! / 2)),
    };
  },
  'one place': (make, x, choose) => {
    const axis = axisOf(x, choose);
    const gathered = make.op('Gather', [x.value, make.ints([-1])], { attributes: { axis } });
    return { value: gathered, dims: swapped(x.dims, axis, 1) };
  },
  'places twice': (make, x, choose) => {
    const axis = axisOf(x, choose);
    const gathered = make.op('Gather', [x.value, make.ints([0, -1, 0])], { attributes: { axis } });
    return { value: gathered, dims: swapped(x.dims, axis, 3) };
  },
  Pad: (make, x, choose) => {
    const axis = axisOf(x, choose);
    const amounts = x.dims.map((_, i) => (i === axis ? 1 : 0));
    return {
      value: make.op('Pad', [x.value, make.ints([...amounts, ...amounts.map((n) => 2 * n)])]),
      dims: swapped(x.dims, axis, x.dims[axis]! + 3),
    };
  },
  'a reduction': (make, x, choose) => {
    const axis = axisOf(x, choose);
    const op = ['ReduceSum', 'ReduceMean'][choose(2)]!;
    const keepdims = x.dims.length === 1 ? 1 : choose(2);
    return {
      value: make.op(op, [x.value, make.ints([axis])], { attributes: { keepdims } }),
      dims: keepdims ? swapped(x.dims, axis, 1) : x.dims.toSpliced(axis, 1),
    };
  },
  Expand: (make, x, choose) => {
    const axis = axisOf(x, choose);
    const length = x.dims[axis] === 1 ? 2 : 1;
    const target = make.ints(x.dims.map((_, i) => (i === axis ? length : 1)));
    return {
      value: make.op('Expand', [x.value, target]),
      dims: swapped(x.dims, axis, Math.max(length, x.dims[axis]!)),
    };
  },
  Softmax: (make, x, choose) => ({
    ...x,
    value: make.op('Softmax', [x.value], { attributes: { axis: axisOf(x, choose) } }),
  }),
};
const stepNames = Object.keys(steps);

/** A scalar of everything that nothing reads, each number with a weight of its own. */
function lossOf(make: Builder, known: readonly Known[]): Value {
  const ends = known.filter(({ value }) => value.users.size === 0);
  const terms = ends.map(({ value, dims }, k) => {
    const size = dims.reduce((a, b) => a * b, 1);
    const weights = Float64Array.from({ length: size }, (_, i) => Math.cos(0.7 * i + k));
    const weighted = make.op('Mul', [value, make.constant('weights', Tensor.float64(weights, dims))]);
    return make.op('ReduceSum', [weighted], { attributes: { keepdims: 0 } });
  });
  return terms.reduce((a, b) => make.op('Add', [a, b]));
}

describe('random graphs', () => {
  it.each(['lengths', 'names'] as const)(
    'have the gradients of finite differences; %s known',
    async (mode) => {
      const choices = fc.array(fc.nat(999), { minLength: 40, maxLength: 40 });
      const count = fc.integer({ min: 2, max: 9 });
      await fc.assert(
        fc.asyncProperty(choices, count, async (numbers, length) => {
          let used = 0;
          const choose: Choose = (options) => numbers[used++ % numbers.length]! % options;
          const graph = new Graph();
          const make = new Builder(graph, 'f');
          const inputs = [
            [2, 3, 4],
            [3, 1],
          ].map((dims, i): Known => {
            const shape = mode === 'names' ? dims.map((dim) => (dim === 1 ? 1 : `n${dim}`)) : dims;
            return { value: graph.input(`x${i}`, 'float64', shape), dims };
          });
          const known = [...inputs];
          const written: string[] = [];
          // Few kinds in one graph, so that the same ones meet often.
          const kinds = Array.from({ length: 3 }, () => stepNames[choose(stepNames.length)]!);
          for (let k = 0; k < length; k++) {
            // The last values most of all, so that graphs get deep.
            const from = known[Math.max(0, known.length - 1 - choose(4))]!;
            if (from.dims.length === 0 || from.dims.length > 4) continue;
            const name = kinds[choose(kinds.length)]!;
            written.push(name);
            known.push(steps[name]!(make, from, choose, known));
          }
          const loss = lossOf(make, known);
          loss.name = 'loss';
          graph.outputs = [loss];
          const opset = 18;
          const opsets = new Map([['', opset]]);
          const model = { irVersion: 8, opsets, graph, producer: 'test', metadata: new Map() };
          if (choose(2) === 0) fold(model);
          else inferTypes(model);
          const wrt = inputs.filter(({ value }) => graph.inputs.includes(value));
          const gradients = differentiate(
            graph,
            loss,
            wrt.map(({ value }) => value),
            { opset },
          );
          const random = randomStream(numbers[0]!, 'random graphs');
          const feeds: Record<string, Numbers> = {};
          const direction = new Map<string, number[]>();
          for (const { value, dims } of wrt) {
            const size = dims.reduce((a, b) => a * b, 1);
            const normal = () => Array.from({ length: size }, () => random.normal());
            feeds[value.name] = { dims, values: normal() };
            direction.set(value.name, normal());
            const gradient = gradients.get(value);
            if (!gradient) continue;
            gradient.name = `d_${value.name}`;
            graph.outputs.push(gradient);
          }
          const runner = await session(graph, opset, 'float64');
          const results = await runner.run(feeds);
          let slope = 0;
          for (const { value, dims } of wrt) {
            const gradient = results[`d_${value.name}`];
            if (!gradient) continue;
            expect(gradient.dims, written.join(', ')).toEqual(dims);
            gradient.values.forEach((d, i) => {
              slope += d * direction.get(value.name)![i]!;
            });
          }
          const at = async (t: number) => {
            const moved = Object.entries(feeds).map(([name, { dims, values }]) => [
              name,
              { dims, values: values.map((v, i) => v + t * direction.get(name)![i]!) },
            ]);
            return (await runner.run(Object.fromEntries(moved))).loss!.values[0]!;
          };
          const step = 1e-5;
          const [ahead, behind] = [await at(step), await at(-step)];
          await runner.release();
          // step^2 times third derivatives, and rounding of the loss over the step.
          const tolerance = 1e-6 * Math.max(1, Math.abs(slope), Math.abs(ahead));
          const difference = (ahead - behind) / (2 * step);
          expect(Math.abs(difference - slope), `${written.join(', ')}: ${slope}, ${difference}`).toBeLessThan(
            tolerance,
          );
        }),
        { numRuns: 300, seed: 7 },
      );
    },
  );
});
