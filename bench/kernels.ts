import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InferenceSession } from 'onnxruntime-node';

/** An operator of a run, by ONNX Runtime's profiler. */
export interface Kernel {
  readonly name: string;
  readonly op: string;
  readonly inputs: readonly (readonly number[])[];
  readonly outputs: readonly (readonly number[])[];
  readonly milliseconds: number;
}

/** Milliseconds. */
export function total(kernels: readonly Kernel[]): number {
  return kernels.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
}

interface ProfileEvent {
  readonly cat: string;
  readonly name: string;
  /** Microseconds. */
  readonly ts: number;
  readonly dur: number;
  readonly args: {
    readonly op_name: string;
    readonly input_type_shape?: readonly Record<string, number[]>[];
    readonly output_type_shape?: readonly Record<string, number[]>[];
  };
}

/**
 * Profiles the sessions that `work` opens and runs; what it returns closes them. For each session, in the order in
 * which they were opened, the kernels of a run in their order, each with the shortest of its times. The first run of a
 * session warms it up.
 */
export async function profileSessions(work: () => Promise<() => Promise<unknown>>): Promise<Kernel[][]> {
  const folder = mkdtempSync(join(tmpdir(), 'onnx-alora-profile-'));
  const sessions: InferenceSession[] = [];
  const { create } = InferenceSession;
  InferenceSession.create = async (path: unknown, given: unknown) => {
    const prefix = join(folder, `${sessions.length}-`);
    const profiled = { ...(given as object), enableProfiling: true, profileFilePrefix: prefix };
    const session = (await Reflect.apply(create, InferenceSession, [path, profiled])) as InferenceSession;
    sessions.push(session);
    return session;
  };
  try {
    const close = await work();
    for (const session of sessions) session.endProfiling();
    await close();
    const files = readdirSync(folder);
    return sessions.map((_, i) => readProfile(join(folder, files.find((file) => file.startsWith(`${i}-`))!)));
  } finally {
    InferenceSession.create = create;
    rmSync(folder, { recursive: true });
  }
}

function readProfile(path: string): Kernel[] {
  const events = JSON.parse(readFileSync(path, 'utf8')) as ProfileEvent[];
  // The first run warms the allocator.
  const runs = events.filter((event) => event.name === 'model_run').slice(1);
  const kernels = events.filter((event) => event.cat === 'Node' && event.name.endsWith('_kernel_time'));
  const shapes = (typed: readonly Record<string, number[]>[] = []) =>
    typed.map((each) => Object.values(each)[0] ?? []);
  return runs
    .map(({ ts, dur }) => kernels.filter((kernel) => kernel.ts >= ts && kernel.ts < ts + dur))
    .map((run) =>
      run.map(({ name, dur, args }) => ({
        name: name.replace(/_kernel_time$/, ''),
        op: args.op_name,
        inputs: shapes(args.input_type_shape),
        outputs: shapes(args.output_type_shape),
        milliseconds: dur / 1000,
      })),
    )
    .reduce((best, run) =>
      best.map((kernel, i) => (run[i]!.milliseconds < kernel.milliseconds ? run[i]! : kernel)),
    );
}
