import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { defineConfig } from 'tsup';

/** What travels with the package of the embedded model: files that a user's run reads, not the scripts that made it. */
const modelFiles = /(?:presidents|onnx|README\.md|\.json|\.onnx)$/;

export default defineConfig(({ outDir = 'dist', dts = true }) => ({
  entry: {
    index: 'src/index.ts',
    strategy: 'src/strategy.ts',
    strategies: 'src/strategies.ts',
    testing: 'src/testing.ts',
    cli: 'src/cli/main.ts',
    worker: 'src/cli/worker.ts',
  },
  outDir,
  format: 'esm',
  target: 'node20',
  platform: 'node',
  splitting: true,
  clean: true,
  dts: dts && { entry: ['index', 'strategy', 'strategies', 'testing'].map((name) => `src/${name}.ts`) },
  // The tokenizers of @xenova/transformers travel inside, so that users install one ONNX Runtime and no sharp.
  noExternal: [/^@xenova\/transformers/, /^@huggingface\/jinja/],
  external: ['onnxruntime-node'],
  esbuildPlugins: [
    {
      name: 'leave out what a tokenizer does not need',
      setup(build) {
        build.onResolve({ filter: /^(sharp|onnxruntime-web)$/ }, ({ path }) => ({
          path,
          namespace: 'empty',
        }));
        build.onLoad({ filter: /.*/, namespace: 'empty' }, () => ({ contents: 'export default {};' }));
        // The hub client and the runtime's tensors: a tokenizer made from local files touches neither.
        build.onLoad({ filter: /@xenova[\\/]transformers[\\/]src[\\/]utils[\\/](hub|tensor)\.js$/ }, () => ({
          contents: 'export const getModelJSON = undefined; export class Tensor {}',
        }));
      },
    },
  ],
  onSuccess: async () => {
    cpSync('fixtures/models/presidents', join(outDir, 'models/presidents'), {
      recursive: true,
      filter: (source) => modelFiles.test(source),
    });
  },
}));
