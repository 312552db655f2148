package qupath.opencv.ml;

import qupath.bioimageio.spec.Model;
import qupath.opencv.dnn.DnnModel;
import qupath.opencv.dnn.DnnModelParams;
import qupath.opencv.dnn.DnnModels;

/** Stands in for QuPath's class. */
public class BioimageIoTools {
    private BioimageIoTools() {}

    public static DnnModel buildDnnModel(Model model) {
        return DnnModels.buildModel(DnnModelParams.builder().URIs(model.getBaseURI()).build());
    }
}
