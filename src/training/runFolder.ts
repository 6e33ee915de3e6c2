import { appendFileSync, existsSync, readdirSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { cannotWrite } from '../atomicFiles.ts';
import { AloraError } from '../errors.ts';
import type { MetricsEvent } from './reporter.ts';

/** What a run writes beside run.yaml, which every run writes anew; `--force` removes these and nothing else. */
const written = [
  'metrics.jsonl',
  'scores',
  'checkpoints',
  'best',
  'adapter',
  'result.json',
  'report.html',
  'report',
];

function guarded<T>(path: string, write: () => T): T {
  try {
    return write();
  } catch (cause) {
    throw cannotWrite(path, cause);
  }
}

/** The folder of one run: docs/run-folder.md says what its files hold. */
export class RunFolder {
  constructor(readonly path: string) {}

  file(...parts: string[]): string {
    return join(this.path, ...parts);
  }

  get isFinished(): boolean {
    return existsSync(this.file('result.json'));
  }

  /** Whether the folder is not there or holds nothing, leftovers with a leading dot and .tmp files aside. */
  get isEmpty(): boolean {
    if (!existsSync(this.path)) return true;
    return readdirSync(this.path).every((name) => name.startsWith('.') || name.includes('.tmp'));
  }

  /** Refuses a folder in use, before anything is written. Errors: OUTPUT_EXISTS, STORAGE_WRITE. */
  check({ resume = false, force = false }: { resume?: boolean; force?: boolean }): void {
    let empty: boolean;
    try {
      empty = this.isEmpty;
    } catch (cause) {
      throw cannotWrite(this.path, cause);
    }
    if (!empty && !resume && !force)
      throw new AloraError('storage', 'OUTPUT_EXISTS', 'The output folder is not empty', {
        where: this.path,
        fix: 'Continue that run with --resume, replace it with --force, or set another output.',
      });
  }

  /** Deletes what an earlier run wrote. */
  clear(): void {
    guarded(this.path, () => {
      for (const name of written) rmSync(this.file(name), { recursive: true, force: true });
    });
  }

  /** Undoes what a run has begun in a folder that was empty, or not there: `made`. */
  undo(made: boolean): void {
    if (made) rmSync(this.path, { recursive: true, force: true });
    else
      for (const name of ['run.yaml', ...written]) rmSync(this.file(name), { recursive: true, force: true });
  }

  append(event: MetricsEvent): void {
    guarded(this.file('metrics.jsonl'), () =>
      appendFileSync(this.file('metrics.jsonl'), `${JSON.stringify(event)}\n`),
    );
  }

  /**
   * Cuts metrics.jsonl back to what was known after step `step`: later events and a torn last line go. An
   * evaluation at `step` stays: checkpoints are written after it. That of test after the last step goes: it is made
   * again.
   */
  rewindMetrics(step: number): void {
    const path = this.file('metrics.jsonl');
    if (!existsSync(path)) return;
    const text = readFileSync(path, 'utf8');
    let keep = 0;
    for (let at = 0; at < text.length; ) {
      const end = text.indexOf('\n', at);
      if (end < 0) break;
      try {
        const event = JSON.parse(text.slice(at, end)) as MetricsEvent;
        if (event.step > step || (event.event === 'eval' && event.split === 'test' && event.step > 0)) break;
      } catch {
        break;
      }
      at = end + 1;
      keep = at;
    }
    guarded(path, () => truncateSync(path, Buffer.byteLength(text.slice(0, keep))));
  }

  events(): MetricsEvent[] {
    const path = this.file('metrics.jsonl');
    if (!existsSync(path)) return [];
    return readFileSync(path, 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .flatMap((line) => {
        try {
          return [JSON.parse(line) as MetricsEvent];
        } catch {
          return [];
        }
      });
  }
}
