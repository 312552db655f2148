package qupath.opencv.dnn;

import java.util.LinkedHashSet;
import java.util.Set;

/** Stands in for QuPath's class, in which nothing is registered at first. */
public class DnnModels {
    private static final Set<DnnModelBuilder> BUILDERS = new LinkedHashSet<>();

    private DnnModels() {}

    public static boolean registerBuilder(DnnModelBuilder builder) {
        return builder != null && BUILDERS.add(builder);
    }

    public static DnnModel buildModel(DnnModelParams params) {
        for (DnnModelBuilder builder : BUILDERS) {
            DnnModel model = builder.buildModel(params);
            if (model != null) {
                return model;
            }
        }
        return null;
    }
}
