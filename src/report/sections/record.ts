import { amount, bytes, duration, integer } from '../format.ts';
import { type Html, html } from '../html.ts';
import { type Run, setting } from '../read.ts';
import { quantile } from '../scores.ts';

/** Median step time and overall token rate, in a sentence. */
export function speedText(run: Run): Html {
  const timed = run.steps.filter((s) => s.ms !== undefined && s.tokens !== undefined && s.ms > 0);
  if (timed.length === 0) return html`<p class="note">No step has been timed yet.</p>`;
  const ms = timed.map((s) => s.ms!).sort((a, b) => a - b);
  const tokens = timed.reduce((sum, s) => sum + s.tokens!, 0);
  const seconds = timed.reduce((sum, s) => sum + s.ms!, 0) / 1000;
  const { result } = run;
  const machine = result?.machine;
  return html`<p>Median step ${quantile(ms, 0.5).toFixed(1)} ms (5 to 95 %: ${quantile(ms, 0.05).toFixed(1)} to ${quantile(ms, 0.95).toFixed(1)}), ${integer(tokens / seconds)} tokens a second over ${integer(tokens)} tokens${result ? `; the whole run took ${duration(result.seconds)}, evaluation and saving included` : ''}.${result?.peakMemory ? ` Peak memory ${bytes(result.peakMemory)}.` : ''}${machine ? ` Machine: ${machine.cpu}, ${machine.cores} cores, ${bytes(machine.memory)}.` : ''}</p>`;
}

/** Generated text for the same prompt before the first and after the last step. */
export function samples(run: Run): Html | undefined {
  const all = run.result?.samples ?? [];
  const prompts = [...new Set(all.map((s) => s.prompt))];
  if (prompts.length === 0) return undefined;
  const text = (prompt: string, when: 'before' | 'after') =>
    all.find((s) => s.prompt === prompt && s.when === when)?.text;
  return html`${prompts.map(
    (prompt) => html`<div class="pair"><div class="prompt"><h4>prompt</h4><p class="mono">${prompt}</p></div>
<div><h4>before training</h4><p class="mono">${text(prompt, 'before') ?? '\u2013'}</p></div><div><h4>after training</h4><p class="mono">${text(prompt, 'after') ?? '\u2013'}</p></div></div>`,
  )}`;
}

function rows(entries: readonly (readonly [name: string, value: unknown])[]): Html {
  const shown = entries.filter(([, value]) => value !== undefined && value !== null && value !== '');
  return html`<table class="plain"><tbody>${shown.map(
    ([name, value]) =>
      html`<tr><th scope="row">${name}</th><td>${typeof value === 'object' ? html`<code>${JSON.stringify(value)}</code>` : String(value)}</td></tr>`,
  )}</tbody></table>`;
}

/** All that is needed to make the same run again. */
export function record(run: Run): Html {
  const { result } = run;
  const get = (path: string) => setting(run.config, path);
  return html`
${result?.command ? html`<pre>${result.command}</pre>` : ''}
${rows([
  ['model', get('model.path')],
  ['model file', get('model.file')],
  ['targets', get('model.targets')],
  ['task', get('data.task')],
  ['train rows from', get('data.train')],
  ['dev rows from', get('data.dev')],
  ['test rows from', get('data.test')],
  ['strategy', get('adapter.strategy')],
  ['budget', get('budget')],
  ['learning rate', get('train.learningRate')],
  ['schedule', get('train.schedule')],
  ['batch', get('train.batchSize')],
  ['seed', get('train.seed')],
  ['device', get('runtime.device')],
  ['configuration hash', result?.configHash],
  ...Object.entries(result?.hashes ?? {})
    .filter(([, hash]) => hash !== result?.configHash)
    .map(([role, hash]) => [`sha256 of ${role}`, hash] as const),
  ...Object.entries(result?.versions ?? {}),
])}
<details><summary>run.yaml, as resolved</summary><pre>${run.source}</pre></details>
${result ? html`<details><summary>result.json</summary><pre>${JSON.stringify(result, null, 2)}</pre></details>` : ''}`;
}

/** Total of live ranks and parameters now, for a run that has no result yet. */
export function liveTotals(run: Run): string {
  const ranks = run.modules.reduce((sum, m) => sum + m.after, 0);
  const known = run.modules.every((m) => m.cost !== undefined);
  const parameters = run.modules.reduce((sum, m) => sum + m.after * (m.cost ?? 0), 0);
  return `${amount(ranks)} live ranks${known ? `, ${amount(parameters)} parameters` : ''}, in ${run.modules.length} modules`;
}
