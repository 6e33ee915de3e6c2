import { createRequire } from 'node:module';

/**
 * @xenova/transformers 2.17 with models running on the ONNX Runtime of this project.
 *
 * Its Tensor copies the own properties of a runtime tensor. From runtime 1.17 on, `data` and `location` are getters
 * on the prototype and would be lost, so this makes them own properties of every tensor created from here on.
 * Its tokenizers need none of this.
 */
export async function importXenova(): Promise<typeof import('@xenova/transformers')> {
  const { Tensor } = createRequire(import.meta.url)('onnxruntime-node') as typeof import('onnxruntime-node');
  Object.defineProperty(Tensor.prototype, 'cpuData', {
    configurable: true,
    set(value: unknown) {
      Object.defineProperties(this, {
        cpuData: { value, writable: true, configurable: true },
        data: { value, writable: true, configurable: true, enumerable: true },
        location: { value: 'cpu', configurable: true, enumerable: true },
      });
    },
  });
  const xenova = await import('@xenova/transformers');
  xenova.env.allowRemoteModels = false;
  xenova.env.localModelPath = '/';
  return xenova;
}
