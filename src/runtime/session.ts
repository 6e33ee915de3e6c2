import { basename } from 'node:path';
import * as ort from 'onnxruntime-node';
import { AloraError } from '../errors.ts';

/** Execution provider of ONNX Runtime. */
export type Device = 'cpu' | 'cuda' | 'webgpu';

/** Where ONNX Runtime computes. */
export interface RuntimeOptions {
  readonly device: Device;
  /** Threads within an operator; 0: one a core. With 1, results are bit-reproducible. */
  readonly threads: number;
}

/** ONNX Runtime's own log on stderr: fatal errors only. Every other error reaches the user as an exception, once. */
const quiet = { session: 4, environment: 'fatal' } as const;
ort.env.logLevel = quiet.environment;

export interface SessionChoices {
  /** Packs constant weights as the session opens (see prepacking.ts); default off. */
  readonly prepack?: boolean;
}

/**
 * Options of every session. Prepacking would copy each weight into a layout of its own (twice the memory,
 * seconds to load), the memory pattern would reserve the largest batch for good. What is not named is as ONNX Runtime
 * has it: all graph optimisations, one operator after another.
 */
function sessionOptions(
  runtime: RuntimeOptions,
  { prepack = false }: SessionChoices = {},
): ort.InferenceSession.SessionOptions {
  return {
    executionProviders: [runtime.device],
    ...(runtime.threads > 0 ? { intraOpNumThreads: runtime.threads } : {}),
    enableCpuMemArena: true,
    enableMemPattern: false,
    logSeverityLevel: quiet.session,
    extra: {
      session: {
        disable_prepacking: prepack ? '0' : '1',
        // Block-wise weights stay exact: by default ONNX Runtime rounds the activations before them to 8 bits.
        qdq_matmulnbits_accuracy_level: '0',
        // Idle threads of a session would spin on, and take their core from the next session's.
        force_spinning_stop: '1',
      },
    },
  };
}

const installHints: Record<Device, string> = {
  cpu: 'Reinstall onnxruntime-node.',
  cuda: 'Install the CUDA libraries (npm install onnxruntime-node --onnxruntime-node-install=cuda12; Linux x64, CUDA 12, cuDNN 9), or set runtime.device to cpu.',
  webgpu: 'Install a Vulkan, Metal or Direct3D 12 driver, or set runtime.device to cpu.',
};

/** Opens an ONNX file on the device. Errors: DEVICE_UNAVAILABLE, MODEL_SESSION with the runtime's own words. */
export async function openSession(
  path: string,
  runtime: RuntimeOptions,
  choices?: SessionChoices,
): Promise<ort.InferenceSession> {
  try {
    return await ort.InferenceSession.create(path, sessionOptions(runtime, choices));
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    const missing = /provider|backend|no available|libcuda|CUDA|adapter|WebGPU|dawn/i.test(message);
    if (runtime.device !== 'cpu' && missing)
      throw new AloraError('config', 'DEVICE_UNAVAILABLE', `The device ${runtime.device} is not available`, {
        where: 'runtime.device',
        got: firstLine(message),
        fix: installHints[runtime.device],
        cause,
      });
    throw new AloraError('model', 'MODEL_SESSION', 'ONNX Runtime does not accept the graph', {
      where: basename(path),
      got: firstLine(message),
      fix: 'Run `onnx-alora inspect` on the model; if it reports nothing, this is a bug worth reporting.',
      cause,
    });
  }
}

/** Opens several files; where one cannot be opened, those before it are released. Errors: as openSession. */
export async function openSessions(
  files: readonly ({ readonly path: string } & SessionChoices)[],
  runtime: RuntimeOptions,
): Promise<ort.InferenceSession[]> {
  const sessions: ort.InferenceSession[] = [];
  try {
    for (const { path, ...choices } of files) sessions.push(await openSession(path, runtime, choices));
    return sessions;
  } catch (error) {
    for (const session of sessions) await session.release();
    throw error;
  }
}

export type Feeds = Record<string, ort.Tensor>;

/** Runs a session; an error of the runtime is passed on with the graph's name. */
export async function runSession(
  session: ort.InferenceSession,
  name: string,
  feeds: Feeds,
  fetches?: readonly string[],
): Promise<Record<string, ort.Tensor>> {
  try {
    return (await session.run(feeds, fetches ?? session.outputNames)) as Record<string, ort.Tensor>;
  } catch (cause) {
    throw new AloraError('model', 'MODEL_RUN', `ONNX Runtime failed while running the ${name} graph`, {
      got: firstLine(cause instanceof Error ? cause.message : String(cause)),
      fix: /out of (data )?bounds/.test(String(cause))
        ? "Check that tokenizer.json is the model's own, and that data.maxLength does not pass its longest context."
        : 'Check that data.maxLength does not pass the longest context of the model.',
      cause,
    });
  }
}

function firstLine(text: string): string {
  return text.split('\n')[0]!.slice(0, 400);
}
