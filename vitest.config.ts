import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const at = (path: string) => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
  resolve: {
    alias: [
      { find: /^onnx-alora$/, replacement: at('./src/index.ts') },
      { find: 'onnx-alora/strategy', replacement: at('./src/strategy.ts') },
      { find: 'onnx-alora/strategies', replacement: at('./src/strategies.ts') },
      { find: 'onnx-alora/testing', replacement: at('./src/testing.ts') },
    ],
  },
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    // These end what hangs. A slow or busy machine takes its time.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    teardownTimeout: 60_000,
    // What a terminal can show is up to each test, not to the one that the tests run in.
    env: { TERM: 'xterm', NO_COLOR: '' },
    // Continuous integration counts the tests in the JSON report.
    reporters: process.env.CI ? ['default', ['json', { outputFile: 'coverage/tests.json' }]] : ['default'],
  },
});
