/** The proximal operator of threshold * |g|: sign(g) * max(|g| - threshold, 0). */
export function softThreshold(g: number, threshold: number): number {
  if (g > threshold) return g - threshold;
  if (g < -threshold) return g + threshold;
  // NaN falls through both comparisons and has to stay visible.
  return Number.isNaN(g) ? g : 0;
}
