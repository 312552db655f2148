import ai.djl.Device;
import ai.djl.engine.Engine;
import ai.djl.inference.Predictor;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.repository.zoo.Criteria;
import ai.djl.repository.zoo.ZooModel;
import ai.djl.translate.NoopTranslator;
import java.io.IOException;
import java.nio.file.Path;

/** Runs TorchScript as JDLL and QuPath do: through DJL, with its defaults, on the processor. */
public final class TorchRunner {
    private TorchRunner() {}

    public static void main(String[] arguments) throws IOException {
        Job.main(
                arguments,
                new Job.Loader() {
                    @Override
                    public String version() {
                        return Engine.getEngine("PyTorch").getVersion();
                    }

                    @Override
                    public Job.Network load(Path weights, int threads) throws Exception {
                        return new Script(weights);
                    }
                });
    }

    private static final class Script implements Job.Network {
        private final ZooModel<NDList, NDList> model;
        private final Predictor<NDList, NDList> predictor;
        private final NDManager manager;

        Script(Path weights) throws Exception {
            model =
                    Criteria.builder()
                            .setTypes(NDList.class, NDList.class)
                            .optEngine("PyTorch")
                            .optDevice(Device.cpu())
                            .optModelPath(weights)
                            .optTranslator(new NoopTranslator())
                            .build()
                            .loadModel();
            predictor = model.newPredictor();
            manager = NDManager.newBaseManager(Device.cpu(), "PyTorch");
        }

        @Override
        public Object run(Npy input) throws Exception {
            try (NDList tensors = new NDList(manager.create(input.values, new Shape(input.shape)))) {
                return predictor.predict(tensors);
            }
        }

        @Override
        public Npy output(Object result) {
            try (NDList tensors = (NDList) result) {
                Job.one("output", tensors.size());
                NDArray tensor = tensors.get(0);
                try (NDArray floats = tensor.toType(DataType.FLOAT32, true)) {
                    return new Npy(tensor.getShape().getShape(), floats.toFloatArray());
                }
            }
        }

        @Override
        public void close() {
            predictor.close();
            model.close();
            manager.close();
        }
    }
}
