import type { Model } from '../onnx/graph.ts';
import { addLowRank } from './addLowRank.ts';
import { readTransposed } from './readTransposed.ts';

/**
 * Brings a graph that is to run on a device into the form in which its kernels take the least time, in place: what
 * such a pass writes has no gradient, and not every device has a kernel for it.
 */
export function suitDevice(model: Model, device: 'cpu' | 'cuda' | 'webgpu'): void {
  readTransposed(model, { fused: device !== 'webgpu' });
  if (device === 'cpu') addLowRank(model);
}
