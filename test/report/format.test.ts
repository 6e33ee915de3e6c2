import { describe, expect, it } from 'vitest';
import { bytes, change, decimal } from '../../src/report/format.ts';

describe('numbers of a report', () => {
  it('have a real minus sign at every magnitude', () => {
    expect([-1234.56, -0.5, -3.44e-4].map(decimal)).toEqual(['−1,234.6', '−0.5000', '−3.44e-4']);
    expect(change(-3.44e-4)).toBe('−3.44e-4');
    expect(change(5.29e-4)).toBe('+5.29e-4');
  });

  it('count bytes in decimal units', () => {
    expect([412e6, 1.5e9].map(bytes)).toEqual(['412 MB', '1.50 GB']);
  });
});
