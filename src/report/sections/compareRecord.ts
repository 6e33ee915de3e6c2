import { pointLabel } from '../../compare/expand.ts';
import type { CompareRecord, RunRecord } from '../../compare/record.ts';
import { mean } from '../../compare/statistics.ts';
import { amount, bytes, duration, integer } from '../format.ts';
import { type Html, html } from '../html.ts';
import { paperCost } from '../paper.ts';
import type { Variant } from '../readCompare.ts';

const dash = '\u2013';
const mono = (text: string) => html`<span class="mono">${text}</span>`;
const nameOf = ({ label, point }: Variant): string => {
  const where = pointLabel(point);
  return `${label}${where && ` at ${where}`}`;
};

/** Mean of what the finished runs have, undefined where none has it. */
function meanOf(variant: Variant, value: (run: RunRecord) => number | undefined): number | undefined {
  const values = variant.runs.map(value).filter((one) => one !== undefined);
  return values.length > 0 ? mean(values) : undefined;
}

/** Peak, final and average counts of every method against the budget, and the recount from the saved tensors. */
export function budgetTable(variants: readonly Variant[]): Html {
  const body = variants.map((variant) => {
    const { at, target } = variant.plan.budget;
    const count = (name: 'peak' | 'final' | 'average') => {
      const value = meanOf(variant, ({ budget }) => budget?.[name].parameters);
      return html`<td class="n${name === at ? ' strong' : ''}">${value === undefined ? dash : amount(Math.round(value * 10) / 10)}</td>`;
    };
    const spent = meanOf(variant, ({ budget }) => budget?.[at].parameters);
    const recounted = meanOf(variant, ({ recounted: tensors }) => tensors?.adapter);
    return html`<tr><th scope="row">${nameOf(variant)}</th><td class="n">${integer(target)}</td>${count('peak')}${count('final')}${count('average')}<td class="n">${spent === undefined ? dash : `${((100 * spent) / target).toFixed(2)} %`}</td><td class="n">${recounted === undefined ? dash : amount(Math.round(recounted * 10) / 10)}</td></tr>`;
  });
  const { at } = variants[0]!.plan.budget;
  return html`<p>A budget is a number of trained scalars: one rank costs in + out of its module, and one more where its gate trains. It is met at the moment <b>${at}</b>; the other counts are reported.</p>
<div class="scroll"><table>
<thead><tr><th>method, mean over seeds</th><th class="n">budget</th><th class="n">peak</th><th class="n">final</th><th class="n">average</th><th class="n">${at} of the budget</th><th class="n">recounted from adapter/</th></tr></thead>
<tbody>${body}</tbody></table></div>`;
}

/** Memory, speed and time (the paper's Table 4). */
export function costTable(record: CompareRecord, variants: readonly Variant[]): Html {
  const paper = record.task === 'e2e';
  const shown = (value: number | undefined, text: (n: number) => string) =>
    html`<td class="n">${value === undefined ? dash : text(value)}</td>`;
  const body = variants.map((variant) => {
    const { strategy } = record.methods[variant.method]!;
    return html`<tr><th scope="row">${nameOf(variant)}</th>${shown(
      meanOf(variant, ({ peakMemory }) => peakMemory),
      bytes,
    )}${shown(
      meanOf(variant, ({ stepMs }) => stepMs),
      (ms) => (1000 / ms).toFixed(2),
    )}${shown(
      meanOf(variant, ({ tokensPerSecond }) => tokensPerSecond),
      integer,
    )}${shown(
      meanOf(variant, ({ seconds }) => seconds),
      duration,
    )}${shown(
      meanOf(variant, ({ secondsAllocating }) => secondsAllocating),
      duration,
    )}${paper && html`<td class="paper">${paperCost[strategy] ?? dash}</td>`}</tr>`;
  });
  return html`<div class="scroll"><table>
<thead><tr><th>method, mean over seeds</th><th class="n">peak memory</th><th class="n">steps a second</th><th class="n">tokens a second</th><th class="n">time of a run</th><th class="n">of it moving ranks</th>${paper && html`<th class="paper">the paper's own numbers<br>Table 4, LLaMA-2 7B on an A40</th>`}</tr></thead>
<tbody>${body}</tbody></table></div>
<p class="note">Steps a second: from the median step, evaluation and saving excluded. Runs that shared the machine with others slow each other down; compare speeds only where nothing else ran.${record.machine ? ` Machine: ${record.machine.cpu}, ${record.machine.cores} cores, ${bytes(record.machine.memory)}.` : ''}</p>`;
}

const marks = { ok: ['ok', 'up'], failed: ['failed', 'down'], open: ['not all runs', 'zero'] } as const;

/** What identical treatment means, and whether it held. */
export function checkTable({ checks }: CompareRecord): Html {
  return html`<div class="scroll"><table class="checks"><tbody>${checks.map(
    ({ name, state, detail }) =>
      html`<tr><th scope="row">${name}</th><td><span class="${marks[state][1]}">${marks[state][0]}</span></td><td>${detail}</td></tr>`,
  )}</tbody></table></div>`;
}

/** Runs without a result, and why. */
export function failureTable(variants: readonly Variant[]): Html | undefined {
  const rows = variants.flatMap((variant) =>
    variant.runs
      .filter(({ state }) => state !== 'finished')
      .map(
        ({ seed, folder, failure }) =>
          html`<tr><th scope="row">${nameOf(variant)}</th><td class="n">${seed}</td><td>${failure ? `${failure.kind}: ${failure.message}` : 'has not run yet'}</td><td>${mono(folder)}</td></tr>`,
      ),
  );
  if (rows.length === 0) return undefined;
  return html`<h3>Runs without a result</h3><div class="scroll"><table><thead><tr><th>method</th><th class="n">seed</th><th>what happened</th><th>folder</th></tr></thead><tbody>${rows}</tbody></table></div>`;
}

/** All that is needed to make the same comparison again. */
export function compareRecord(record: CompareRecord, variants: readonly Variant[]): Html {
  const splits = Object.entries(record.data).map(([split, info]) => [
    `${split} rows`,
    `${integer(info.rows)}, ${integer(info.labels)} trained ${record.task === 'classification' ? 'labels' : 'tokens'}`,
  ]);
  const rows = [
    [
      'model',
      `${record.model.name} (${record.model.file}), ${record.model.backbone}, ${integer(record.model.parameters)} frozen parameters`,
    ],
    ['task', record.task],
    ...splits,
    ['seeds', record.seeds.join(', ')],
    ...Object.entries(record.hashes).map(([role, hash]) => [`sha256 of ${role}`, hash]),
    ...Object.entries(record.versions),
  ] as const;
  const runs = variants.flatMap((variant) =>
    variant.runs.map(
      ({ seed, folder }) =>
        html`<tr><th scope="row">${nameOf(variant)}</th><td class="n">${seed}</td><td>${mono(`npx onnx-alora train ${folder}/run.yaml --set output=again`)}</td></tr>`,
    ),
  );
  return html`
${record.command !== '' && html`<pre>${record.command}</pre>`}
<table class="plain"><tbody>${rows.map(([name, value]) => html`<tr><th scope="row">${name!}</th><td>${value!}</td></tr>`)}</tbody></table>
<details><summary>The compare file</summary><pre>${record.source}</pre></details>
<details><summary>One run again, from the folder of this page (${runs.length})</summary><div class="scroll"><table><thead><tr><th>method</th><th class="n">seed</th><th>command</th></tr></thead><tbody>${runs}</tbody></table></div></details>`;
}
