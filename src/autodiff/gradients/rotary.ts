import type { Gradient } from '../rule.ts';

/** com.microsoft: y turns pairs of x by the angles of the tables, by position: dx turns dy back. */
export const RotaryEmbedding: Gradient = ({ node, x: [x, positions, cos, sin], dy, e }) => [
  () =>
    e.builder.op('RotaryEmbedding', [dy, positions!, cos!, e.neg(sin!)], {
      name: `${e.scope}/RotaryEmbedding`,
      domain: node.domain,
      attributes: Object.fromEntries(node.attributes),
      dtype: dy.dtype,
      shape: x!.shape,
    }),
  null,
  null,
  null,
];
