import { expect, it } from 'vitest';
import { openModel } from '../../src/training/assemble.ts';

it('counts a model alike whether its weights are float or quantised', () => {
  const count = (file: string) => {
    const { backbone, workspace } = openModel({
      path: 'fixtures/backbones/smollm',
      file: `onnx/${file}.onnx`,
    });
    workspace.close();
    return backbone.parameters;
  };
  const float = count('model');
  // The output layer is a copy of the embedding in these files; some constants differ.
  for (const file of ['model_int8', 'model_quantized', 'model_q4', 'model_q4_qdq'])
    expect(Math.abs(count(file) - float), file).toBeLessThan(0.01 * float);
});
