package qupath.opencv.dnn;

/** Stands in for QuPath's interface. */
public interface DnnModelBuilder {
    DnnModel buildModel(DnnModelParams params);
}
