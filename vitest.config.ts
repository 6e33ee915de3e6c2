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
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Continuous integration counts the tests in the JSON report.
    reporters: process.env.CI ? ['default', ['json', { outputFile: 'coverage/tests.json' }]] : ['default'],
  },
});
