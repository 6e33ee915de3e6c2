import { defineConfig } from 'tsup';

/** The bench runs the sources of src, bundled. Its child processes are files beside it. */
export default defineConfig({
  entry: {
    agreement: 'bench/agreement.ts',
    compute: 'bench/compute.ts',
    products: 'bench/products.ts',
    profile: 'bench/profile.ts',
    run: 'bench/run.ts',
    forward: 'bench/forward.ts',
    ours: 'bench/ours.ts',
    start: 'bench/start.ts',
    trainRun: 'bench/trainRun.ts',
    scorers: 'bench/scorers.ts',
    scoring: 'bench/scoring.ts',
    serving: 'bench/serving.ts',
  },
  outDir: '.models/bench',
  format: 'esm',
  target: 'node20',
  platform: 'node',
  external: ['onnxruntime-node'],
  silent: true,
});
