import { parse } from 'node:path';
import { expect, it } from 'vitest';
import { packageRoot } from '../../src/cli/installation.ts';

it('finds the package from within, and says so where there is none', () => {
  expect(packageRoot()).toBe(process.cwd());
  expect(() => packageRoot(parse(process.cwd()).root)).toThrow('package.json of onnx-alora is missing');
});
