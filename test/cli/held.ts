import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { builtCli } from './builtCli.ts';

/** A place in a run: behind a step and before what follows it, or in the middle of a round of scoring, from 1. */
export type Place = `step ${number}` | `scoring ${number}`;

/**
 * Writes held.mjs into a folder: a shipped strategy by the name of `held`, whose runs wait at the place that a file `hold`
 * in their working folder names, until it is gone or their parent process sends a message. What a test does to a run
 * that waits comes in time, however fast the machine is.
 */
export async function writeHeldStrategy(folder: string, strategy: 'lora' | 'alora'): Promise<void> {
  const built = pathToFileURL(join(dirname(await builtCli()), 'strategies.js')).href;
  writeFileSync(
    join(folder, 'held.mjs'),
    `import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { ${strategy} } from ${JSON.stringify(built)};

function isHeld(place) {
  try {
    return readFileSync('hold', 'utf8') === place;
  } catch {
    return false;
  }
}

async function pass(place) {
  let told = false;
  process.once('message', () => {
    told = true;
  });
  writeFileSync(\`held-\${process.pid}\`, '');
  while (isHeld(place) && !told) await sleep(5);
}

let rounds = 0;
export default {
  ...${strategy},
  name: 'held',
  scheduler(run, options) {
    const own = ${strategy}.scheduler?.(run, options);
    return {
      save: () => null,
      restore() {},
      ...own,
      async afterStep(host) {
        const step = \`step \${host.step}\`;
        if (isHeld(step)) await pass(step);
        const scored = Object.create(host);
        scored.losses = async (settings) => {
          // One or two settings are the model as it is, not the ranks.
          const scoring = settings.length > 10 && \`scoring \${++rounds}\`;
          if (scoring && isHeld(scoring)) {
            await host.losses(settings.slice(0, 10));
            await pass(scoring);
          }
          return host.losses(settings);
        };
        await own?.afterStep(scored);
      },
    };
  },
};
`,
  );
}

/** Lets runs that a folder is the working folder of wait at a place. */
export function hold(folder: string, place: Place): void {
  writeFileSync(join(folder, 'hold'), place);
}

export function release(folder: string): void {
  rmSync(join(folder, 'hold'));
}

/** Numbers of the processes that have come to a place where they wait. */
export function held(folder: string): number[] {
  return readdirSync(folder)
    .filter((name) => /^held-\d+$/.test(name))
    .map((name) => Number(name.slice('held-'.length)));
}

export interface Begun {
  readonly child: ChildProcess;
  readonly stderr: () => string;
  /** The exit code, or the name of the signal that ended it. */
  readonly end: Promise<number | NodeJS.Signals | null>;
  /** Waits until something is so, as long as the process lives. */
  until(met: () => boolean): Promise<void>;
}

/** Starts the built command line in a folder, in a process group of its own as a shell does. */
export async function begin(cwd: string, args: readonly string[]): Promise<Begun> {
  const child = spawn(process.execPath, [await builtCli(), ...args], {
    cwd,
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
  });
  let stderr = '';
  let ended = false;
  child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text));
  const end = new Promise<number | NodeJS.Signals | null>((done) =>
    child.on('close', (code, signal) => {
      ended = true;
      done(code ?? signal);
    }),
  );
  return {
    child,
    stderr: () => stderr,
    end,
    async until(met) {
      while (!met()) {
        if (ended) throw new Error(`the command ended before what the test waits for:\n${stderr}`);
        await sleep(5);
      }
    },
  };
}
