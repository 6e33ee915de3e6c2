import * as ort from 'onnxruntime-node';
import { otherDimensions } from '../adapters/adapterMismatch.ts';
import { transposed } from '../adapters/mergePlan.ts';
import type { ModelConfig } from '../adapters/module.ts';
import type { ClassifierNotes } from '../adapters/newClassifier.ts';
import { packAdapter } from '../adapters/packAdapter.ts';
import type { LoadedPeftAdapter } from '../adapters/peft.ts';
import { headWeight } from '../adapters/quantGrid.ts';
import { constantOf } from '../adapters/targets.ts';
import { AloraError, nearest } from '../errors.ts';
import type { Tensor } from '../onnx/tensor.ts';
import type { Feeds } from '../runtime/session.ts';
import { modulesOfAdapter } from '../training/adapterFiles.ts';
import type { AdapterSite } from './servingGraph.ts';

/** An adapter's numbers at one site, as the graph takes them. */
interface SiteFactors {
  readonly rank: number;
  /** [in, rank]. */
  readonly a: Float32Array;
  /** [rank, out], scale and gate multiplied in. */
  readonly b: Float32Array;
  /** [out], for a head. */
  readonly bias?: Float32Array;
}

/** An adapter made ready for a model's sites. */
export interface ServedAdapter {
  /** In the order of the sites. */
  readonly factors: readonly SiteFactors[];
  /** A classifier for a model without one: weight [classes, hidden], bias [classes]. */
  readonly classifier:
    | { readonly weight: Tensor; readonly bias: Tensor | undefined; readonly notes?: ClassifierNotes }
    | undefined;
}

/** The model as it is. */
export function noAdapter(sites: readonly AdapterSite[]): ServedAdapter {
  return { factors: sites.map(noFactors), classifier: undefined };
}

function noFactors({ module, bias }: AdapterSite): SiteFactors {
  const none = new Float32Array(0);
  return { rank: 0, a: none, b: none, ...(bias ? { bias: new Float32Array(module.out) } : {}) };
}

/**
 * Fits an adapter to the sites of a model. A head that the adapter trained in full becomes the difference to the
 * model's own head, written as factors. Errors: ADAPTER_MISMATCH, MODEL_NO_SITE, MODEL_HEAD_FORM.
 */
export function fitAdapter(
  given: LoadedPeftAdapter,
  sites: readonly AdapterSite[],
  config: ModelConfig,
): ServedAdapter {
  const adapter = packAdapter(
    given,
    sites.map(({ module }) => module),
    config,
  );
  const bySite = new Map(sites.map((site) => [site.module.name, site]));
  for (const name of adapter.modules.keys()) if (!bySite.has(name)) throw noSite(name, bySite);
  modulesOfAdapter(
    adapter,
    sites.map(({ module }) => module),
  );
  const heads = new Set<string>();
  const factors = sites.map((site) => {
    const weight = adapter.saved.get(`${site.module.name}.weight`);
    if (weight) {
      heads.add(site.module.name);
      return headFactors(adapter, site, weight, adapter.saved.get(`${site.module.name}.bias`));
    }
    const weights = adapter.modules.get(site.module.name);
    if (!weights) return noFactors(site);
    const { rank, scale, gate, A, B } = weights;
    const scaled = B.map((value, i) => value * scale * gate[Math.floor(i / site.module.out)]!);
    return { ...noFactors(site), rank, a: transposed(A, rank, site.module.in), b: scaled };
  });
  return { factors, classifier: newClassifier(adapter, heads) };
}

function noSite(name: string, sites: ReadonlyMap<string, AdapterSite>): AloraError {
  return new AloraError(
    'model',
    'MODEL_NO_SITE',
    'The adapter changes a layer that the model was not opened for',
    {
      got: name,
      allowed: [...new Set([...sites.keys()].map((site) => site.split('.').at(-1)!))],
      didYouMean: nearest(name, sites.keys()),
      fix: `Open the model with this layer among its targets: loadModel(dir, { targets: ['all-linear', '${name.split('.').at(-1)}'] }); if it has no such layer, the adapter belongs to another model.`,
    },
  );
}

/** x (W' - W)^T as (x A) B with one factor the identity: rank min(in, out). */
function headFactors(
  adapter: LoadedPeftAdapter,
  { module, bias }: AdapterSite,
  weight: Tensor,
  ownBias: Tensor | undefined,
): SiteFactors {
  const { in: width, out } = module;
  if (weight.dims[0] !== out || weight.dims[1] !== width)
    throw otherDimensions(adapter, module.name, {
      got: `[${weight.dims}]`,
      allowed: `[${out}, ${width}]`,
    });
  const { values: base, layout } = headWeight(module);
  const wanted = weight.toFloat32();
  // [in, out].
  const difference = transposed(wanted, out, width);
  for (let i = 0; i < width; i++)
    for (let o = 0; o < out; o++)
      difference[i * out + o]! -= layout === 'in-out' ? base[i * out + o]! : base[o * width + i]!;
  const before = constantOf(module.bias)?.tensor.toFloat32();
  const biasDelta = (ownBias?.toFloat32() ?? before ?? new Float32Array(out)).map(
    (v, o) => v - (before?.[o] ?? 0),
  );
  return {
    ...(out <= width
      ? { rank: out, a: difference, b: identity(out) }
      : { rank: width, a: identity(width), b: difference }),
    ...(bias ? { bias: biasDelta } : {}),
  };
}

/** What the adapter saves in full and the model has no layer for: the classifier of an encoder without a head. */
function newClassifier(adapter: LoadedPeftAdapter, heads: ReadonlySet<string>): ServedAdapter['classifier'] {
  for (const [name, weight] of adapter.saved) {
    const module = /^(.*)\.weight$/.exec(name)?.[1];
    if (module === undefined || heads.has(module)) continue;
    return { weight, bias: adapter.saved.get(`${module}.bias`), notes: adapter.classifier };
  }
  return undefined;
}

function identity(size: number): Float32Array {
  const out = new Float32Array(size * size);
  for (let i = 0; i < size; i++) out[i * size + i] = 1;
  return out;
}

/**
 * Feeds for a batch in which example i has adapter i. At each site the factors are padded with zeros to the largest
 * rank there, which changes nothing: a zero column of A meets a zero row of B.
 */
export function stackedFeeds(sites: readonly AdapterSite[], adapters: readonly ServedAdapter[]): Feeds {
  const feeds: Feeds = {};
  const n = adapters.length;
  sites.forEach(({ module, a, b, bias }, s) => {
    const own = adapters.map(({ factors }) => factors[s]!);
    const rank = Math.max(...own.map((factor) => factor.rank));
    const first = own[0]!;
    const stackedA = n === 1 ? first.a : new Float32Array(n * module.in * rank);
    const stackedB = n === 1 ? first.b : new Float32Array(n * rank * module.out);
    if (n > 1)
      own.forEach((factor, i) => {
        for (let row = 0; row < module.in; row++)
          stackedA.set(
            factor.a.subarray(row * factor.rank, (row + 1) * factor.rank),
            (i * module.in + row) * rank,
          );
        stackedB.set(factor.b, i * rank * module.out);
      });
    feeds[a] = new ort.Tensor('float32', stackedA, [n, module.in, rank]);
    feeds[b] = new ort.Tensor('float32', stackedB, [n, rank, module.out]);
    if (bias === undefined) return;
    const stacked = new Float32Array(n * module.out);
    own.forEach((factor, i) => {
      stacked.set(factor.bias!, i * module.out);
    });
    feeds[bias] = new ort.Tensor('float32', stacked, [n, 1, module.out]);
  });
  return feeds;
}
