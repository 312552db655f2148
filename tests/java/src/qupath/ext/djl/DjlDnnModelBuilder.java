package qupath.ext.djl;

import java.nio.file.Path;
import qupath.opencv.dnn.DnnModel;
import qupath.opencv.dnn.DnnModelBuilder;
import qupath.opencv.dnn.DnnModelParams;
import scene.Network;

/** Stands in for the extension's class; a folder called engineless finds no engine. */
public class DjlDnnModelBuilder implements DnnModelBuilder {
    public DjlDnnModelBuilder() {}

    @Override
    public DnnModel buildModel(DnnModelParams params) {
        String name = Path.of(params.getURIs().get(0)).getFileName().toString();
        if (name.startsWith("engineless") || !"true".equals(System.getProperty("ai.djl.offline"))) {
            return null;
        }
        return new Network(Integer.parseInt(name.substring(name.lastIndexOf('_') + 1)));
    }
}
