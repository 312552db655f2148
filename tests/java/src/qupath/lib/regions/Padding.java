package qupath.lib.regions;

/** Stands in for QuPath's class. */
public class Padding {
    private Padding() {}

    public static Padding empty() {
        return new Padding();
    }
}
