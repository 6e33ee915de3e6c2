/** Exponential moving averages of a tensor's sensitivity, one entry a scalar. Both start at zero. */
export interface Sensitivity {
  readonly mean: Float32Array;
  readonly deviation: Float32Array;
}

export function noSensitivity(length: number): Sensitivity {
  return { mean: new Float32Array(length), deviation: new Float32Array(length) };
}

/**
 * One step of AdaLoRA's averages (Zhang et al. 2023, eq. 9 to 11, in the form of its code: the deviation takes
 * the new mean):
 *
 *     I = |w * dL/dw|    mean = beta1 * mean + (1 - beta1) * I    deviation = beta2 * deviation + (1 - beta2) * |I - mean|
 */
export function updateSensitivity(
  { mean, deviation }: Sensitivity,
  values: ArrayLike<number>,
  gradients: ArrayLike<number>,
  beta1: number,
  beta2: number,
): void {
  for (let i = 0; i < mean.length; i++) {
    const sensitivity = Math.abs(values[i]! * gradients[i]!);
    const smoothed = beta1 * mean[i]! + (1 - beta1) * sensitivity;
    mean[i] = smoothed;
    deviation[i] = beta2 * deviation[i]! + (1 - beta2) * Math.abs(sensitivity - smoothed);
  }
}

/** Mean over the scalars of row `row` of mean * deviation, the score of one row of `width` scalars. */
export function rowSensitivity({ mean, deviation }: Sensitivity, row: number, width: number): number {
  let sum = 0;
  for (let i = row * width; i < (row + 1) * width; i++) sum += mean[i]! * deviation[i]!;
  return sum / width;
}
