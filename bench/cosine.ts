/** Of the angle between two gradients: 1 where they point the same way. */
export function cosine(a: Float32Array, b: Float32Array): number {
  let [ab, aa, bb] = [0, 0, 0];
  a.forEach((value, i) => {
    ab += value * b[i]!;
    aa += value * value;
    bb += b[i]! * b[i]!;
  });
  return ab / Math.sqrt(aa * bb);
}
