import type { Value } from '../../onnx/graph.ts';
import type { Gradient } from '../rule.ts';

/**
 * y = sum of products over index letters. The gradient of one operand is again an Einsum, of dy and the other operands
 * with that operand's letters as its output; letters that only this operand has were summed, so dy is repeated along
 * them. Refused: ellipses, letters twice in one operand, broadcast axes.
 */
export const Einsum: Gradient = ({ node, x, dy, e, refuse }) => {
  const equation = node.string('equation', '').replaceAll(' ', '');
  if (equation.includes('.')) return refuse(`the ellipsis in '${equation}' is not covered`);
  const [left = '', right = implicitOutput(left)] = equation.split('->');
  const terms = left.split(',');
  if (terms.some((term) => new Set(term).size !== term.length))
    return refuse(`'${equation}' takes a diagonal`);
  return terms.map((term, i) => (): Value => {
    const others = terms.filter((_, j) => j !== i);
    const available = right + others.join('');
    const present = [...term].filter((letter) => available.includes(letter)).join('');
    const operands = [dy, ...x.filter((_, j) => j !== i)] as Value[];
    const gradient = e.op('Einsum', operands, { equation: `${[right, ...others].join(',')}->${present}` });
    const summed = [...term].flatMap((letter, axis) => (available.includes(letter) ? [] : [axis]));
    if (isBroadcast(terms, x, i)) return refuse(`'${equation}' broadcasts an axis of length 1`);
    gradient.shape = [...present].map((letter) => x[i]!.shape?.[term.indexOf(letter)] ?? null);
    return summed.length === 0 ? gradient : e.expandTo(e.unsqueeze(gradient, summed), x[i]!);
  });
};

/** Whether an operand has length 1 where another operand surely has another length. */
function isBroadcast(terms: readonly string[], x: readonly (Value | undefined)[], operand: number): boolean {
  const dimsOf = (letter: string) =>
    terms.flatMap((term, j) => (term.includes(letter) ? [x[j]?.shape?.[term.indexOf(letter)] ?? 1] : []));
  const shape = x[operand]?.shape;
  return [...terms[operand]!].some(
    (letter, axis) => shape?.[axis] === 1 && dimsOf(letter).some((dim) => dim !== 1),
  );
}

/** Without an arrow, the output has the letters that occur once, in alphabetical order. */
function implicitOutput(left: string): string {
  const letters = [...left.replaceAll(',', '')];
  return [...new Set(letters)]
    .filter((letter) => letters.indexOf(letter) === letters.lastIndexOf(letter))
    .sort()
    .join('');
}
