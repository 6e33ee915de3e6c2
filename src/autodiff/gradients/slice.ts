import type { Value } from '../../onnx/graph.ts';
import { constantOf } from '../constants.ts';
import type { Emitter } from '../emitter.ts';
import type { Gradient } from '../rule.ts';

/**
 * y takes every step-th element between start and end along some axes: dx has dy at those places and zeros elsewhere.
 * Steps of 1 pad; other steps, negative ones included, look each place of x up in dy with one zero appended.
 */
export const Slice: Gradient = ({ x: [x, starts, ends, axesInput, stepsInput], dy, e, refuse }) => [
  () => {
    const rank = x!.shape?.length;
    if (rank === undefined)
      return refuse('the rank of its input is unknown; infer shapes before differentiating');
    const count =
      (constantOf(starts) ?? constantOf(ends) ?? constantOf(axesInput))?.length ?? starts!.shape?.[0];
    const given = axesInput
      ? constantOf(axesInput)
      : [...Array(typeof count === 'number' ? count : 0).keys()];
    if (!given || typeof count !== 'number') return refuse('its axes are not constant');
    const axes = given.map((axis) => (axis < 0 ? axis + rank : axis));
    const steps = stepsInput ? constantOf(stepsInput) : axes.map(() => 1);
    if (!steps) return refuse('its steps are not constant');

    let dx = dy;
    const pads = new Map<number, readonly [Value, Value]>();
    axes.forEach((axis, i) => {
      const range = axisRange(e, x!, axis, pick(e, starts!, i), pick(e, ends!, i), steps[i]!);
      if (steps[i] === 1) pads.set(axis, range.outside());
      else dx = e.op('Gather', [withZero(e, dx, axis, rank), range.lookup()], { axis });
    });
    return pads.size > 0 ? e.pad(dx, rank, pads) : dx;
  },
  null,
  null,
  null,
  null,
];

/** Element i of an int64 vector, as a vector of one element. */
function pick(e: Emitter, vector: Value, i: number): Value {
  const constant = constantOf(vector);
  if (constant) return e.builder.ints([constant[i]!]);
  const element = e.op('Gather', [vector, e.builder.ints([i])], { axis: 0 }, { shape: [1] });
  // The other operands of the slices that read it are int64, and operands must agree.
  return vector.dtype === 'int32' ? e.cast(element, 'int64') : Object.assign(element, { dtype: 'int64' });
}

/** A value with one zero appended along an axis. */
function withZero(e: Emitter, value: Value, axis: number, rank: number): Value {
  return e.pad(value, rank, new Map([[axis, [e.builder.ints([0]), e.builder.ints([1])]]]));
}

/** Which of the places 0..length-1 of an axis a slice takes. */
function axisRange(e: Emitter, x: Value, axis: number, start: Value, end: Value, step: number) {
  const length = x.shape?.[axis];
  const [from, to] = [constantOf(start)?.[0], constantOf(end)?.[0]];
  const constant = typeof length === 'number' && from !== undefined && to !== undefined;
  const taken = constant ? takenPlaces(length, from, to, step) : [];
  const vector = { dtype: 'int64', shape: [1] } as const;

  const places = () => {
    const scalar = e.squeeze(e.lengths.axis(x, axis), [0]);
    return e.op('Range', [e.builder.int(0), scalar, e.builder.int(1)], {}, { dtype: 'int64', shape: [null] });
  };
  const selected = () =>
    e.op('Slice', [places(), start, end, e.builder.ints([0]), e.builder.ints([step])], {}, { shape: [null] });

  return {
    /** How many places come before the first and after the last one taken; for step 1. */
    outside(): readonly [Value, Value] {
      if (constant && taken.length > 0)
        return [e.builder.ints([taken[0]!]), e.builder.ints([length - 1 - taken.at(-1)!])];
      if (constant) return [e.builder.ints([length]), e.builder.ints([0])];
      // For an empty slice the minimum is the length itself.
      const chosen = selected();
      const total = e.lengths.axis(x, axis);
      const candidates = e.concat([chosen, total], 0);
      const before = e.op('ReduceMin', e.opset >= 18 ? [candidates, e.builder.ints([0])] : [candidates], {
        keepdims: 1,
        axes: e.opset >= 18 ? undefined : [0],
      });
      before.shape = [1];
      const used = e.op('Add', [before, e.op('Shape', [chosen], {}, vector)], {}, vector);
      return [before, e.op('Sub', [total, used], {}, vector)];
    },
    /** For each place its position in the slice, or the slice's length where it is not taken. */
    lookup(): Value {
      if (constant)
        return e.builder.ints(
          Array.from({ length }, (_, place) => (taken.includes(place) ? taken.indexOf(place) : taken.length)),
        );
      const chosen = selected();
      const count = e.op('Shape', [chosen], {}, vector);
      const nowhere = e.op('Expand', [count, e.lengths.axis(x, axis)], {}, { shape: [null] });
      const positions = e.op('Range', [e.builder.int(0), e.squeeze(count, [0]), e.builder.int(1)]);
      return e.op('ScatterElements', [nowhere, chosen, positions], { axis: 0 });
    },
  };
}

/** The places that Slice takes of an axis, with its rules for negative and overlong bounds. */
function takenPlaces(length: number, start: number, end: number, step: number): number[] {
  const wrap = (bound: number) => (bound < 0 ? bound + length : bound);
  const clamp = (bound: number, low: number, high: number) => Math.max(low, Math.min(bound, high));
  const taken: number[] = [];
  if (step > 0) {
    const last = clamp(wrap(end), 0, length);
    for (let place = clamp(wrap(start), 0, length); place < last; place += step) taken.push(place);
  } else {
    const last = clamp(wrap(end), -1, length - 1);
    for (let place = clamp(wrap(start), 0, length - 1); place > last; place += step) taken.push(place);
  }
  return taken;
}

/** y surrounds x with a constant: dx is what dy has in x's place. Amounts may be negative. */
export const Pad: Gradient = ({ node, x: [x, amounts, , axesInput], dy, e, refuse }) => [
  () => {
    if (node.string('mode', 'constant') !== 'constant')
      return refuse(`mode ${node.string('mode', '')} is not covered`);
    const rank = x!.shape?.length;
    if (rank === undefined)
      return refuse('the rank of its input is unknown; infer shapes before differentiating');
    const axes = axesInput ? constantOf(axesInput) : [...Array(rank).keys()];
    if (!axes) return refuse('its axes are not constant');
    // The reverse of padding is padding by the negated amounts, which crops.
    return e.op(
      'Pad',
      [dy, e.op('Neg', [amounts!]), null, axesInput ?? null].slice(0, axesInput ? 4 : 2) as Value[],
    );
  },
  null,
  null,
  null,
];
