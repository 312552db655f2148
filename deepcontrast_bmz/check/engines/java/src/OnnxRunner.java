import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.io.IOException;
import java.nio.DoubleBuffer;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.nio.LongBuffer;
import java.nio.file.Path;
import java.util.Map;

/** Runs ONNX as JDLL does: through onnxruntime for Java, with its defaults, on the processor. */
public final class OnnxRunner {
    private OnnxRunner() {}

    public static void main(String[] arguments) throws IOException {
        Job.main(
                arguments,
                new Job.Loader() {
                    @Override
                    public String version() {
                        OrtEnvironment.getEnvironment();
                        Package room = OrtEnvironment.class.getPackage();
                        String version = room.getImplementationVersion();
                        return version == null ? "" : version;
                    }

                    @Override
                    public Job.Network load(Path weights, int threads) throws Exception {
                        return new Session(weights, threads);
                    }
                });
    }

    private static final class Session implements Job.Network {
        private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
        private final OrtSession session;
        private final String input;

        Session(Path weights, int threads) throws OrtException {
            OrtSession.SessionOptions options = new OrtSession.SessionOptions();
            options.setIntraOpNumThreads(threads);
            session = environment.createSession(weights.toString(), options);
            Job.one("input", session.getInputNames().size());
            input = session.getInputNames().iterator().next();
        }

        @Override
        public Object run(Npy values) throws OrtException {
            FloatBuffer buffer = FloatBuffer.wrap(values.values);
            try (OnnxTensor tensor = OnnxTensor.createTensor(environment, buffer, values.shape)) {
                return session.run(Map.of(input, tensor));
            }
        }

        @Override
        public Npy output(Object result) {
            try (OrtSession.Result outputs = (OrtSession.Result) result) {
                Job.one("output", outputs.size());
                if (!(outputs.get(0) instanceof OnnxTensor)) {
                    throw new IllegalArgumentException("the output is no tensor");
                }
                OnnxTensor tensor = (OnnxTensor) outputs.get(0);
                return new Npy(tensor.getInfo().getShape(), floats(tensor));
            }
        }

        private static float[] floats(OnnxTensor tensor) {
            OnnxJavaType type = tensor.getInfo().type;
            float[] values;
            switch (type) {
                case FLOAT:
                    FloatBuffer plain = tensor.getFloatBuffer();
                    values = new float[plain.remaining()];
                    plain.get(values);
                    return values;
                case DOUBLE:
                    DoubleBuffer fine = tensor.getDoubleBuffer();
                    values = new float[fine.remaining()];
                    for (int i = 0; i < values.length; i++) {
                        values[i] = (float) fine.get(i);
                    }
                    return values;
                case INT32:
                    IntBuffer whole = tensor.getIntBuffer();
                    values = new float[whole.remaining()];
                    for (int i = 0; i < values.length; i++) {
                        values[i] = whole.get(i);
                    }
                    return values;
                case INT64:
                    LongBuffer wide = tensor.getLongBuffer();
                    values = new float[wide.remaining()];
                    for (int i = 0; i < values.length; i++) {
                        values[i] = wide.get(i);
                    }
                    return values;
                default:
                    throw new IllegalArgumentException(
                            "the output holds " + type + ", and FLOAT, DOUBLE, INT32, INT64 can be read");
            }
        }

        @Override
        public void close() throws OrtException {
            session.close();
        }
    }
}
