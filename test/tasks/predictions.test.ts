import { describe, expect, it } from 'vitest';
import { collate } from '../../src/tasks/collate.ts';
import { predictionMetrics } from '../../src/tasks/metrics/predictions.ts';
import type { Example } from '../../src/tasks/task.ts';

const source = { file: 'a', line: 1 };
const token = (targets: number[]): Example => ({ kind: 'token', ids: targets.map(() => 1), targets, source });

describe('predictionMetrics', () => {
  it('weighs every trained token the same over batches of any size', () => {
    const metrics = predictionMetrics(['perplexity', 'tokenAccuracy', 'accuracy']);
    metrics.add(collate([token([4, 5, -1]), token([-1, 6])], { padId: 0 }), {
      losses: [1, 2, 3],
      predicted: [4, 5, 7],
    });
    metrics.add(collate([token([-1, 8, -1])], { padId: 0 }), { losses: 6, predicted: [8n] });
    const { loss, labels, examples, metrics: values } = metrics.result();
    expect({ loss, labels, examples }).toEqual({ loss: 3, labels: 4, examples: 3 });
    expect(values).toEqual({ perplexity: Math.exp(3), tokenAccuracy: 3 / 4, accuracy: 2 / 3 });
  });

  it('counts rows for a head', () => {
    const metrics = predictionMetrics(['accuracy']);
    const rows = [0, 1, 1].map(
      (label): Example => ({ kind: 'sequence', ids: [1, 2], targets: [label], source }),
    );
    metrics.add(collate(rows, { padId: 0 }), { losses: [0, 0, 0], predicted: [0, 1, 0] });
    expect(metrics.result()).toMatchObject({ labels: 3, examples: 3, metrics: { accuracy: 2 / 3 } });
  });

  it('leaves an uncounted end token out of accuracy, but not out of tokenAccuracy', () => {
    const metrics = predictionMetrics(['tokenAccuracy', 'accuracy']);
    const rows = [{ ...token([4, 9]), endUncounted: true }, token([4, 9])];
    metrics.add(collate(rows, { padId: 0 }), { losses: 0, predicted: [4, 1, 4, 1] });
    expect(metrics.result().metrics).toEqual({ tokenAccuracy: 0.5, accuracy: 0.5 });
  });

  it('leaves accuracies out where there are no predictions', () => {
    const metrics = predictionMetrics(['perplexity', 'accuracy']);
    metrics.add(collate([token([1, 2])], { padId: 0 }), { losses: 4 });
    expect(metrics.result().metrics).toEqual({ perplexity: Math.exp(2) });
  });
});
