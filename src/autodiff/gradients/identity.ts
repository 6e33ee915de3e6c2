import { constantOf } from '../constants.ts';
import type { Gradient } from '../rule.ts';

export const Identity: Gradient = ({ dy }) => [() => dy];

/** Between float types: the gradient is cast back. Casts to other types are stops. */
export const Cast: Gradient = ({ x: [x], dy, e }) => [() => e.cast(dy, e.dtype(x!))];

export const CastLike: Gradient = ({ x: [x], dy, e }) => [() => e.cast(dy, e.dtype(x!)), null];

/** Dropout of an exported model, which does nothing. A mask drawn by the runtime could not be read back. */
export const Dropout: Gradient = ({ x: [, ratio, training], dy, refuse }) => [
  () => {
    const active = training && constantOf(training)?.[0] !== 0;
    if (active && constantOf(ratio)?.[0] !== 0)
      return refuse('it is in training mode; export the model in evaluation mode');
    return dy;
  },
  null,
  null,
];
